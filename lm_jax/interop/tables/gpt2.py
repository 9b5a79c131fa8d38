"""GPT-2 (Radford et al. 2019): `Conv1D` kernels are [in, out], as ours, and QKV is fused."""

from __future__ import annotations

from typing import Any

from lm_jax.core.config import InputError
from lm_jax.interop.rules import Rules
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import common
from lm_jax.models import config as models

# Field names of GPT, GPT-2 and GPT-J, without `n_inner`, whose null means 4 times the embedding width.
FIELDS = {
    **dict(length="n_positions", width="n_embd", mlp="", depth="n_layer", heads="n_head"),
    **dict(activation="activation_function", epsilon="layer_norm_epsilon"),
    **dict(dropout="resid_pdrop", attention_dropout="attn_pdrop", embed_dropout="embd_pdrop"),
}


def config(hf: Settings) -> models.TransformerConfig:
    """Convert config.json to a model configuration."""
    hf.architecture("GPT2LMHeadModel", "GPT2Model")
    hf.expect("add_cross_attention", False)
    width, heads, depth = hf.get("n_embd", "hidden_size"), hf.get("n_head"), hf.get("n_layer")
    scale = (width // heads) ** -0.5 if hf.get("scale_attn_weights", default=True) else 1.0
    by_layer = hf.get("scale_attn_by_inverse_layer_idx", default=False)
    norm = models.NormConfig(epsilon=float(hf.get("layer_norm_epsilon", default=1e-5)))
    block = models.BlockConfig(
        attention=models.AttentionConfig(heads=heads, scale=1.0 if scale == 1.0 else None),
        feedforward=models.FeedForwardConfig(
            width=hf.get("n_inner", default=None), activation=hf.activation("activation_function", default="gelu_new")
        ),
        norm=norm,
    )
    # Mistral's GPT-2s (stanford-crfm) divide the scores of layer i by i + 1.
    kinds = {f"layer{index}": {"attention": {"scale": scale / (index + 1)}} for index in range(depth)}
    return models.TransformerConfig(
        embed=models.EmbedConfig(
            vocab=hf.get("vocab_size"), width=width, max_length=hf.get("n_positions", "max_position_embeddings")
        ),
        stack=common.stack(depth, block, kinds, list(kinds) if by_layer else ["block"] * depth),
        norm=norm,
        readout=models.ReadoutConfig(tied=hf.tied(True)),
    )


def weights(config: models.TransformerConfig, architecture: str) -> Rules:
    """Return the rules that map checkpoint tensors to parameters."""
    rules = common.outside(config, "transformer.wte", position="transformer.wpe", last="transformer.ln_f")
    return rules + layers(config.stack)


def layers(stack: models.StackConfig) -> Rules:
    """Return the rules of layers with `Conv1D` kernels (GPT and GPT-2)."""
    return common.layers(
        stack,
        "transformer.h.",
        attention=("attn.c_attn", "attn.c_proj"),
        feedforward=("mlp.c_fc", "mlp.c_proj"),
        norms={"attention_norm": "ln_1", "feedforward_norm": "ln_2"},
        transpose=False,
    )


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to config.json."""
    if config.kind != "decoder":
        raise InputError("GPT-2 must be a decoder")
    inner = config.stack.block.feedforward.width
    return {**common.config_json(config, "gpt2", "GPT2LMHeadModel", **FIELDS), "n_inner": inner}


# Causal masks that older releases stored, and the tied head.
_BUFFERS = (r"transformer\.h\.\d+\.attn\.(bias|masked_bias)", r"lm_head\.weight")
FAMILY = common.decoder(config, weights, settings, prefix="transformer.", ignored=_BUFFERS)
