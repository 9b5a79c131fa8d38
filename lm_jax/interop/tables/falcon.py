"""Falcon (Almazrouei et al. 2023, arXiv:2311.16867): 7B's layers have one norm, 40B's two; QKV is fused."""

from __future__ import annotations

from typing import Any

from lm_jax.core.config import InputError
from lm_jax.interop.rules import Rules
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import common
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Convert config.json to a model configuration."""
    hf.architecture("FalconForCausalLM", "FalconModel")
    # ALiBi is added once, as in the reference's default path; its eager path, given a mask, adds it twice.
    heads, new = hf.get("num_attention_heads", "n_head"), hf.get("new_decoder_architecture", default=False)
    groups, multi_query = hf.get("num_kv_heads", "n_head_kv", default=heads), hf.get("multi_query", default=True)
    groups = 1 if multi_query and not new else groups
    biased = hf.get("bias", default=False)
    width = hf.get("hidden_size", default=4544)
    norm = models.NormConfig(epsilon=float(hf.get("layer_norm_epsilon", default=1e-5)))
    block = models.BlockConfig(
        attention=models.AttentionConfig(
            heads=heads,
            kv_heads=groups,
            bias=biased,
            out_bias=biased,
            position="alibi" if hf.get("alibi", default=False) else "rotary",
            rotary=hf.rotary(10000.0),
            alibi=models.AlibiConfig(rounded=True),
        ),
        feedforward=models.FeedForwardConfig(
            width=hf.get("ffn_hidden_size", default=4 * width),
            activation=hf.activation("activation", default="gelu"),
            bias=biased,
        ),
        norm=norm,
        norm_placement=_placement(hf, new),
    )
    return models.TransformerConfig(
        embed=models.EmbedConfig(
            vocab=hf.get("vocab_size"),
            width=width,
            positions="none",
            max_length=hf.get("max_position_embeddings", default=2048),
        ),
        stack=models.StackConfig(depth=hf.get("num_hidden_layers", "n_layer"), block=block),
        norm=norm,
        readout=models.ReadoutConfig(tied=hf.tied(True)),
    )


def _placement(hf: Settings, new: bool) -> str:
    parallel, norms = hf.get("parallel_attn", default=True), hf.get("num_ln_in_parallel_attn", default=None)
    if new and not parallel:
        raise InputError(
            f"{hf.file}: parallel_attn is False with new_decoder_architecture: no released Falcon has both"
        )
    if not parallel:
        return "pre"
    return "parallel_two" if (norms or (2 if new else 1)) == 2 else "parallel"


def weights(config: models.TransformerConfig, architecture: str) -> Rules:
    """Return the rules that map checkpoint tensors to parameters."""
    block, attention = config.stack.block, config.stack.block.attention
    rules = common.outside(config, "transformer.word_embeddings", last="transformer.ln_f")
    norms = {
        "parallel": {"attention_norm": "input_layernorm"},
        "parallel_two": {"attention_norm": "ln_attn", "feedforward_norm": "ln_mlp"},
        "pre": {"attention_norm": "input_layernorm", "feedforward_norm": "post_attention_layernorm"},
    }[block.norm_placement]
    # With one key head, the orders `groups` and `parts` are equal.
    order = "heads" if attention.kv_heads == attention.heads else "groups"
    return rules + common.megatron(config.stack, "transformer.h.", "self_attention.", norms, order)


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to config.json."""
    block, attention = config.stack.block, config.stack.block.attention
    groups = attention.kv_heads or attention.heads
    # The old architecture has one KV head or as many as query heads, and one norm for both branches.
    new = groups not in (1, attention.heads) or block.norm_placement == "parallel_two"
    alibi = attention.position == "alibi"
    names = dict(mlp="ffn_hidden_size", activation="activation", epsilon="layer_norm_epsilon")
    return {
        **common.config_json(config, "falcon", "FalconForCausalLM", **names),
        "num_kv_heads": groups,
        "multi_query": groups == 1,
        "new_decoder_architecture": new,
        "parallel_attn": block.norm_placement != "pre",
        "num_ln_in_parallel_attn": 2 if block.norm_placement == "parallel_two" else 1,
        "alibi": alibi,
        **({} if alibi else common.rotary(attention.rotary)),
        "bias": attention.bias,
    }


FAMILY = common.decoder(
    config, weights, settings, prefix="transformer.", ignored=(r"lm_head\.weight",), position_tokens="attended"
)
