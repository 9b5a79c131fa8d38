"""MPT (MosaicML 2023): ALiBi, no biases, queries, keys and values in thirds of one matrix."""

from __future__ import annotations

from typing import Any

from lm_jax.interop.family import Family
from lm_jax.interop.heads import CLASSIFIED
from lm_jax.interop.rules import Rules, feedforward, fused, norm, out, same
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import common
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Their settings to ours."""
    hf.architecture("MptForCausalLM", "MPTForCausalLM", "MptModel")
    hf.expect("no_bias", True)
    hf.expect("logit_scale", None)
    hf.expect("embedding_fraction", 1.0)
    # The class has these settings and reads none of them: layers are 4 times as wide and ALiBi is the paper's, always.
    for name in ("expansion_ratio", "norm_type", "learned_pos_emb"):
        hf.get(name, default=None)
    inner = hf.part("attn_config")
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
    """Which tensor is which."""
    block = config.stack.block
    rules = [
        same("token/embedding", "transformer.wte.weight"),
        *norm("final_norm", "transformer.norm_f", config.norm),
    ]
    rules += common.readout(config.readout, "lm_head.weight")
    for layer in range(config.stack.depth):
        ours, theirs = f"stack/{layer}", f"transformer.blocks.{layer}."
        rules += fused(f"{ours}/attention", f"{theirs}attn.Wqkv", block.attention, "parts")
        rules += out(f"{ours}/attention/out", f"{theirs}attn.out_proj", block.attention.heads, bias=False)
        rules += feedforward(f"{ours}/feedforward", f"{theirs}ffn.", ("up_proj", "down_proj"), block.feedforward)
        rules += common.norms(ours, theirs, {"attention_norm": "norm_1", "feedforward_norm": "norm_2"}, block)
    return rules


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Our settings to theirs."""
    attention = config.stack.block.attention
    return {
        "model_type": "mpt",
        "architectures": ["MptForCausalLM"],
        "vocab_size": config.embed.vocab,
        "max_seq_len": common.room(config.embed),
        "d_model": config.embed.width,
        "n_layers": config.stack.depth,
        "n_heads": attention.heads,
        "no_bias": True,
        "layer_norm_epsilon": config.norm.epsilon,
        "attn_config": {"alibi": True, "clip_qkv": attention.clip, "softmax_scale": attention.scale},
        "tie_word_embeddings": config.readout.tied,
        "emb_pdrop": config.embed.dropout,
        "resid_pdrop": config.stack.block.dropout,
        "torch_dtype": "float32",
    }


FAMILY = Family(
    config=config,
    weights=weights,
    heads=CLASSIFIED,
    settings=settings,
    prefix="transformer.",
    ignored=(r"lm_head\.weight",),
)
