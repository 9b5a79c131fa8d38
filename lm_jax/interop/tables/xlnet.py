"""XLNet (Yang et al. 2019, arXiv:1906.08237): relative positions and token types in the scores, two streams."""

from __future__ import annotations

import functools
from typing import Any

from lm_jax.core.config import lookup
from lm_jax.interop.family import Family
from lm_jax.interop.heads import ANSWERS, CHOICES, SEQUENCES, TOKENS, Head, Heads
from lm_jax.interop.rules import Change, Rule, Rules, feedforward, same
from lm_jax.interop.settings import ACTIVATION_NAMES, Settings
from lm_jax.interop.tables import common
from lm_jax.models import config as models
from lm_jax.models.task import TaskHeadConfig

LM_CLASS = "XLNetLMHeadModel"


def config(hf: Settings) -> models.TransformerConfig:
    """Convert config.json to a model configuration."""
    name = hf.architecture(LM_CLASS, "XLNetModel")
    hf.expect("attn_type", "bi", "uni")
    hf.expect("untie_r", True)
    for field in ("use_mems_eval", "use_mems_train", "start_n_top", "end_n_top"):
        hf.get(field, default=None)
    one_way, clamp = hf.get("attn_type", default="bi") == "uni", hf.get("clamp_len", default=-1)
    relative = models.TransformerXLConfig(
        clamp=clamp if clamp > 0 else None, types=True, both_ways=hf.get("bi_data", default=False)
    )
    attention = models.AttentionConfig(
        heads=hf.get("n_head", "num_attention_heads"),
        head_dim=hf.get("d_head", default=None),
        mask="causal" if one_way else "full",
        same_length=hf.get("same_length", default=False) and one_way,
        position="transformer_xl",
        transformer_xl=relative,
        bias=False,
        out_bias=False,
    )
    norm = models.NormConfig(epsilon=float(hf.get("layer_norm_eps", default=1e-12)))
    activation = hf.activation("ff_activation", default="gelu")
    block = models.BlockConfig(
        attention=attention,
        feedforward=models.FeedForwardConfig(width=hf.get("d_inner"), activation=activation),
        norm=norm,
        norm_placement="post",
    )
    # In both fields 0 means no limit, here None.
    memory = models.MemoryConfig(
        length=hf.nullable("mem_len", 512) or None, reuse=max(hf.get("reuse_len", default=0), 0) or None
    )
    return models.TransformerConfig(
        kind="decoder" if one_way else "encoder",
        embed=models.EmbedConfig(
            vocab=hf.get("vocab_size", "n_token"), width=hf.get("d_model", "hidden_size"), positions="none"
        ),
        stack=models.StackConfig(depth=hf.get("n_layer", "num_hidden_layers"), block=block),
        norm=norm,
        final_norm=False,
        readout=models.ReadoutConfig(tied=hf.tied(True), bias=name == LM_CLASS),
        two_stream=True,
        memory=memory,
    )


def weights(config: models.TransformerConfig, architecture: str) -> Rules:
    """Return the rules that map checkpoint tensors to parameters."""
    top, block = "transformer.", config.stack.block
    rules = [
        same("token/embedding", f"{top}word_embedding.weight"),
        Rule(("query_stream/start",), (f"{top}mask_emb",), _load_mask, _save_mask),
    ]
    for layer in range(config.stack.depth):
        ours, theirs = f"stack/{layer}", f"{top}layer.{layer}."
        rules += _attention(f"{ours}/attention", f"{theirs}rel_attn.")
        rules += feedforward(f"{ours}/feedforward", f"{theirs}ff.", ("layer_1", "layer_2"), block.feedforward)
        after = {"attention_norm": "rel_attn.layer_norm", "feedforward_norm": "ff.layer_norm"}
        rules += common.layer_norms(ours, theirs, after, block)
    if config.readout.bias:
        rules += [same("head/bias", "lm_loss.bias"), *common.readout(config.readout, "lm_loss.weight")]
    return rules


def _attention(ours: str, theirs: str) -> Rules:
    """Return the rules of attention; all of their matrices, even the output's, are [width, heads, kv]."""
    names = {"query": "q", "key": "k", "value": "v", "relative/distance": "r"}
    rules = [same(f"{ours}/{part}/kernel", f"{theirs}{name}") for part, name in names.items()]
    rules += [Rule((f"{ours}/out/kernel",), (f"{theirs}o",), _load_out, _save_out)]
    names = {"content_bias": "r_w_bias", "distance_bias": "r_r_bias", "type_bias": "r_s_bias", "types": "seg_embed"}
    return rules + [same(f"{ours}/relative/{part}", f"{theirs}{name}") for part, name in names.items()]


_load_out: Change = lambda array: (array.transpose(1, 2, 0),)
_save_out: Change = lambda array: (array.transpose(2, 0, 1),)
_load_mask: Change = lambda array: (array.reshape(-1),)
_save_mask: Change = lambda array: (array.reshape(1, 1, -1),)


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to config.json."""
    attention = config.stack.block.attention
    relative = attention.transformer_xl
    names = dict(length="", width="d_model", mlp="d_inner", depth="n_layer", heads="n_head", activation="ff_activation")
    return {
        **common.config_json(config, "xlnet", LM_CLASS, dropout="dropout", attention_dropout="", **names),
        "attn_type": "uni" if config.kind == "decoder" else "bi",
        "bi_data": relative.both_ways,
        "clamp_len": relative.clamp or -1,
        "d_head": attention.head_width(config.embed.width),
        "mem_len": config.memory.length,
        "reuse_len": config.memory.reuse,
        "same_length": attention.same_length,
        "untie_r": True,
        **(_summary_json(config.task) if config.task.classes and config.task.pool != "all" else {}),
    }


def _summary_json(task: TaskHeadConfig) -> dict[str, Any]:
    """Return the settings of the layers before a projection; the class's mean would count padding."""
    return {
        "summary_type": lookup({"first": "first", "last": "last"}, task.pool, "config.model.task.pool"),
        "summary_use_proj": task.dense,
        "summary_activation": ACTIVATION_NAMES[task.activation] if task.activation else None,
    }


_SUMMARY = functools.partial(common.summary, out="logits_proj")
HEADS: Heads = {
    TOKENS: Head(out="classifier"),
    f"{ANSWERS}Simple": Head(out="qa_outputs"),
    SEQUENCES: _SUMMARY,
    CHOICES: _SUMMARY,
}
IGNORED = (r"lm_loss\.weight",)
FAMILY = Family(config=config, weights=weights, heads=HEADS, settings=settings, prefix="transformer.", ignored=IGNORED)
