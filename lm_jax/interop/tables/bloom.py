"""BLOOM (Le Scao et al. 2022, arXiv:2211.05100): ALiBi, an embedding norm, and GPT-NeoX's fused QKV."""

from __future__ import annotations

from typing import Any

from lm_jax.interop.rules import Rules
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import common
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Convert config.json to a model configuration."""
    hf.architecture("BloomForCausalLM", "BloomModel")
    if hf.get("slow_but_exact", default=False) and hf.get("pretraining_tp", default=1) > 1:
        hf.expect("slow_but_exact", False)  # With both settings, the class drops biases.
    placement = "stream" if hf.get("apply_residual_connection_post_layernorm", default=False) else "pre"
    norm = models.NormConfig(epsilon=float(hf.get("layer_norm_epsilon", default=1e-5)))
    block = models.BlockConfig(
        attention=models.AttentionConfig(heads=hf.get("n_head", "num_attention_heads"), position="alibi"),
        feedforward=models.FeedForwardConfig(activation="gelu_tanh"),
        norm=norm,
        norm_placement=placement,
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
    """Return the rules that map checkpoint tensors to parameters."""
    top = "transformer."
    rules = common.outside(config, f"{top}word_embeddings", embed=f"{top}word_embeddings_layernorm", last=f"{top}ln_f")
    norms = {"attention_norm": "input_layernorm", "feedforward_norm": "post_attention_layernorm"}
    return rules + common.megatron(config.stack, f"{top}h.", "self_attention.", norms, "heads")


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to config.json."""
    names = dict(length="", mlp="", depth="n_layer", heads="n_head", activation="", epsilon="layer_norm_epsilon")
    return {
        **common.config_json(config, "bloom", "BloomForCausalLM", **names),
        "apply_residual_connection_post_layernorm": config.stack.block.norm_placement == "stream",
    }


FAMILY = common.decoder(
    config, weights, settings, prefix="transformer.", ignored=(r"lm_head\.weight",), position_tokens="attended"
)
