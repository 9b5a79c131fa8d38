"""BLOOM (Le Scao et al. 2022, arXiv:2211.05100): ALiBi, a norm of the embeddings, and heads fused as GPT-NeoX's."""

from __future__ import annotations

from typing import Any

from lm_jax.interop.family import Family
from lm_jax.interop.heads import CLASSIFIED
from lm_jax.interop.rules import Rules, norm, same
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import common
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Their settings to ours."""
    hf.architecture("BloomForCausalLM", "BloomModel")
    if hf.get("slow_but_exact", default=False) and hf.get("pretraining_tp", default=1) > 1:
        # The class then leaves biases out.
        hf.expect("slow_but_exact", False)
    placed = "stream" if hf.get("apply_residual_connection_post_layernorm", default=False) else "pre"
    norm = models.NormConfig(epsilon=float(hf.get("layer_norm_epsilon", default=1e-5)))
    block = models.BlockConfig(
        attention=models.AttentionConfig(heads=hf.get("n_head", "num_attention_heads"), position="alibi"),
        feedforward=models.FeedForwardConfig(activation="gelu_tanh"),
        norm=norm,
        norm_placement=placed,
    )
    return models.TransformerConfig(
        embed=models.EmbedConfig(
            vocab=hf.get("vocab_size"), width=hf.get("hidden_size", "n_embed"), positions="none", norm=True
        ),
        stack=models.StackConfig(depth=hf.get("n_layer", "num_hidden_layers"), block=block),
        norm=norm,
        readout=models.ReadoutConfig(tied=hf.tied(True)),
    )


def weights(config: models.TransformerConfig, architecture: str) -> Rules:
    """Which tensor is which."""
    block = config.stack.block
    rules = [
        same("token/embedding", "transformer.word_embeddings.weight"),
        *norm("embed/norm", "transformer.word_embeddings_layernorm", config.norm),
        *norm("final_norm", "transformer.ln_f", config.norm),
    ]
    rules += common.readout(config.readout, "lm_head.weight")
    norms = {"attention_norm": "input_layernorm", "feedforward_norm": "post_attention_layernorm"}
    for layer in range(config.stack.depth):
        ours, theirs = f"stack/{layer}", f"transformer.h.{layer}."
        rules += common.megatron(ours, theirs, "self_attention", block, "heads", norms)
    return rules


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Our settings to theirs."""
    block = config.stack.block
    return {
        "model_type": "bloom",
        "architectures": ["BloomForCausalLM"],
        "vocab_size": config.embed.vocab,
        "hidden_size": config.embed.width,
        "n_layer": config.stack.depth,
        "n_head": block.attention.heads,
        "layer_norm_epsilon": config.norm.epsilon,
        "apply_residual_connection_post_layernorm": block.norm_placement == "stream",
        "tie_word_embeddings": config.readout.tied,
        "attention_dropout": block.attention.dropout,
        "hidden_dropout": block.dropout,
        "torch_dtype": "float32",
    }


FAMILY = Family(
    config=config,
    weights=weights,
    heads=CLASSIFIED,
    settings=settings,
    prefix="transformer.",
    ignored=(r"lm_head\.weight",),
    counted="attended",
)
