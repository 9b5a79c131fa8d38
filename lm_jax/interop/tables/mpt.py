"""MPT (MosaicML 2023): ALiBi, no biases, one QKV matrix."""

from __future__ import annotations

from typing import Any

from lm_jax.interop.rules import Rules
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import common
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Convert config.json to a model configuration."""
    hf.architecture("MptForCausalLM", "MPTForCausalLM", "MptModel")
    hf.expect("no_bias", True)
    hf.expect("logit_scale", None)
    hf.expect("embedding_fraction", 1.0)
    # The class ignores these fields: its feed-forward width is 4 times the hidden size, and its ALiBi the paper's.
    for name in ("expansion_ratio", "norm_type", "learned_pos_emb"):
        hf.get(name, default=None)
    inner = hf.inner("attn_config")
    for name in ("alibi", "alibi_bias_max", "attn_type", "prefix_lm", "qk_ln", "attn_uses_sequence_id"):
        inner.get(name, default=None)
    scale = inner.get("softmax_scale", default=None)
    attention = models.AttentionConfig(
        heads=hf.get("n_heads", "num_attention_heads"),
        bias=False,
        out_bias=False,
        position="alibi",
        clip=inner.get("clip_qkv", default=None),
        scale=None if scale is None else float(scale),
    )
    inner.finish()
    norm = models.NormConfig(epsilon=float(hf.get("layer_norm_epsilon", default=1e-5)), bias=False)
    block = models.BlockConfig(
        attention=attention, feedforward=models.FeedForwardConfig(activation="gelu", bias=False), norm=norm
    )
    return models.TransformerConfig(
        embed=models.EmbedConfig(
            vocab=hf.get("vocab_size"),
            width=hf.get("d_model", "hidden_size"),
            positions="none",
            max_length=hf.get("max_seq_len", default=2048),
        ),
        stack=models.StackConfig(depth=hf.get("n_layers", "num_hidden_layers"), block=block),
        norm=norm,
        readout=models.ReadoutConfig(tied=hf.tied(True)),
    )


def weights(config: models.TransformerConfig, architecture: str) -> Rules:
    """Return the rules that map checkpoint tensors to parameters."""
    rules = common.outside(config, "transformer.wte", last="transformer.norm_f")
    return rules + common.layers(
        config.stack,
        "transformer.blocks.",
        attention=("attn.Wqkv", "attn.out_proj"),
        feedforward=("ffn.up_proj", "ffn.down_proj"),
        norms={"attention_norm": "norm_1", "feedforward_norm": "norm_2"},
    )


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to config.json."""
    attention = config.stack.block.attention
    names = dict(length="", width="d_model", mlp="", depth="n_layers", heads="n_heads", activation="")
    rates = dict(dropout="resid_pdrop", attention_dropout="", embed_dropout="emb_pdrop")
    return {
        **common.config_json(config, "mpt", "MptForCausalLM", epsilon="layer_norm_epsilon", **names, **rates),
        "max_seq_len": common.position_rows(config.embed),
        "no_bias": True,
        "attn_config": {"alibi": True, "clip_qkv": attention.clip, "softmax_scale": attention.scale},
    }


FAMILY = common.decoder(config, weights, settings, prefix="transformer.", ignored=(r"lm_head\.weight",))
