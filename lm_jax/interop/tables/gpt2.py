"""GPT-2: `Conv1D` matrices, which are [in, out] as ours, and queries, keys and values side by side in one."""

from __future__ import annotations

from typing import Any

from lm_jax.core.config import InputError
from lm_jax.interop.family import Family
from lm_jax.interop.heads import CLASSIFIED
from lm_jax.interop.rules import Rules, feedforward, fused, norm, out, same
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import common
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Their settings to ours."""
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
    """Which tensor is which."""
    rules = [
        same("token/embedding", "transformer.wte.weight"),
        same("embed/position", "transformer.wpe.weight"),
        *norm("final_norm", "transformer.ln_f", config.norm),
    ]
    rules += common.readout(config.readout, "lm_head.weight")
    return rules + layers(config)


def layers(config: models.TransformerConfig) -> Rules:
    """Layers of `Conv1D` matrices, which the first GPT has too."""
    block, rules = config.stack.block, []
    for layer in range(config.stack.depth):
        ours, theirs = f"stack/{layer}", f"transformer.h.{layer}."
        rules += fused(f"{ours}/attention", f"{theirs}attn.c_attn", block.attention, "parts", turn=False)
        rules += out(f"{ours}/attention/out", f"{theirs}attn.c_proj", block.attention.heads, bias=True, turn=False)
        rules += feedforward(f"{ours}/feedforward", f"{theirs}mlp.", ("c_fc", "c_proj"), block.feedforward, turn=False)
        rules += common.norms(ours, theirs, {"attention_norm": "ln_1", "feedforward_norm": "ln_2"}, block)
    return rules


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Our settings to theirs."""
    block, names = config.stack.block, {"gelu_tanh": "gelu_new"}
    if config.kind != "decoder":
        raise InputError("GPT-2 is a decoder")
    activation = block.feedforward.activation
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.embed.vocab,
        "n_positions": config.embed.max_length,
        "n_embd": config.embed.width,
        "n_layer": config.stack.depth,
        "n_head": block.attention.heads,
        "n_inner": block.feedforward.width,
        "activation_function": names.get(activation, activation),
        "layer_norm_epsilon": config.norm.epsilon,
        "tie_word_embeddings": config.readout.tied,
        "attn_pdrop": block.attention.dropout,
        "embd_pdrop": config.embed.dropout,
        "resid_pdrop": block.dropout,
        "torch_dtype": "float32",
    }


# Masks that older releases stored.
_BUFFERS = (r"transformer\.h\.\d+\.attn\.(bias|masked_bias)", r"lm_head\.weight")
FAMILY = Family(
    config=config, weights=weights, heads=CLASSIFIED, settings=settings, prefix="transformer.", ignored=_BUFFERS
)
