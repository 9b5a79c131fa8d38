"""XLNet (Yang et al. 2019, arXiv:1906.08237): relative positions and token types in the scores, two streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_jax.core.config import InputError
from lm_jax.interop.family import Family
from lm_jax.interop.heads import ANSWERS, SEQUENCES, TOKENS, Head, Heads
from lm_jax.interop.rules import Change, Rule, Rules, feedforward, same
from lm_jax.interop.settings import ACTIVATIONS, Settings
from lm_jax.interop.tables import common
from lm_jax.models import config as models

LM_CLASS = "XLNetLMHeadModel"


def config(hf: Settings) -> models.TransformerConfig:
    """Convert config.json to a model configuration."""
    name = hf.architecture(LM_CLASS, "XLNetModel")
    hf.expect("attn_type", "bi", "uni")
    hf.expect("untie_r", True)
    for field in ("use_mems_eval", "use_mems_train", "start_n_top", "end_n_top"):
        hf.get(field, default=None)
    if name.endswith(SEQUENCES):
        _check_summary(hf)
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


def _check_summary(hf: Settings) -> None:
    """Check the settings of the dense layer before the sequence classifier."""
    hf.expect("summary_type", "last", "first", "mean", "cls_index")
    hf.expect("summary_proj_to_labels", False)
    if hf.get("summary_use_proj", default=True) and "sequence_summary.summary.weight" not in hf.tensors:
        raise InputError(f"{hf.file}: summary_use_proj is set, but sequence_summary.summary.weight is not in the file")
    name = hf.nullable("summary_activation", "tanh")
    if name and name not in ACTIVATIONS:
        raise InputError(f"{hf.file}: summary_activation is {name!r}; supported are {', '.join(ACTIVATIONS)}")


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
    }


def _summary(tree: Mapping[str, Any]) -> Head:
    """Return the sequence classifier, which reads one hidden state or the mean of all, padding included."""
    picks = {"first": "first", "mean": "average"}
    activation = tree.get("summary_activation", "tanh")
    return Head(
        out="logits_proj",
        dense="sequence_summary.summary" if tree.get("summary_use_proj", True) else "",
        activation=ACTIVATIONS[activation] if activation else "",
        pick=picks.get(tree.get("summary_type") or "last", "final"),
    )


HEADS: Heads = {TOKENS: Head(out="classifier"), f"{ANSWERS}Simple": Head(out="qa_outputs"), SEQUENCES: _summary}
IGNORED = (r"lm_loss\.weight",)
FAMILY = Family(config=config, weights=weights, heads=HEADS, settings=settings, prefix="transformer.", ignored=IGNORED)
