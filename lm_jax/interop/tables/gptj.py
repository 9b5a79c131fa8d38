"""GPT-J (Wang and Komatsuzaki 2021): both branches read one norm, neighbours turn together, and the head has a bias."""

from __future__ import annotations

from typing import Any

from lm_jax.interop.family import Family
from lm_jax.interop.heads import CLASSIFIED
from lm_jax.interop.rules import Rules, attention, feedforward, norm, same
from lm_jax.interop.settings import THEIRS, Settings
from lm_jax.interop.tables import common
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Their settings to ours."""
    hf.architecture("GPTJForCausalLM", "GPTJModel")
    width, heads = hf.get("n_embd", "hidden_size"), hf.get("n_head", "num_attention_heads")
    turned = hf.get("rotary_dim", default=width // heads)
    norm = models.NormConfig(epsilon=float(hf.get("layer_norm_epsilon", default=1e-5)))
    block = models.BlockConfig(
        attention=models.AttentionConfig(
            heads=heads,
            bias=False,
            out_bias=False,
            position="rotary",
            rotary=models.RotaryConfig(fraction=turned / (width // heads), interleaved=True),
        ),
        feedforward=models.FeedForwardConfig(
            width=hf.get("n_inner", default=None), activation=hf.activation("activation_function", default="gelu_new")
        ),
        norm=norm,
        norm_placement="parallel",
    )
    return models.TransformerConfig(
        embed=models.EmbedConfig(
            vocab=hf.get("vocab_size"),
            width=width,
            positions="none",
            max_length=hf.get("n_positions", "max_position_embeddings", default=2048),
        ),
        stack=models.StackConfig(depth=hf.get("n_layer", "num_hidden_layers"), block=block),
        norm=norm,
        readout=models.ReadoutConfig(tied=hf.tied(False), bias=not hf.headless),
    )


def weights(config: models.TransformerConfig, architecture: str) -> Rules:
    """Which tensor is which."""
    block = config.stack.block
    rules = [
        same("token/embedding", "transformer.wte.weight"),
        *norm("final_norm", "transformer.ln_f", config.norm),
    ]
    rules += common.readout(config.readout, "lm_head.weight")
    rules += [same("head/bias", "lm_head.bias")] if config.readout.bias else []
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    for layer in range(config.stack.depth):
        ours, theirs = f"stack/{layer}", f"transformer.h.{layer}."
        rules += attention(f"{ours}/attention", f"{theirs}attn.", names, block.attention)
        rules += feedforward(f"{ours}/feedforward", f"{theirs}mlp.", ("fc_in", "fc_out"), block.feedforward)
        rules += common.norms(ours, theirs, {"attention_norm": "ln_1"}, block)
    return rules


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Our settings to theirs."""
    block, width = config.stack.block, config.embed.width
    return {
        "model_type": "gptj",
        "architectures": ["GPTJForCausalLM"],
        "vocab_size": config.embed.vocab,
        "n_positions": common.room(config.embed),
        "n_embd": width,
        "n_layer": config.stack.depth,
        "n_head": block.attention.heads,
        "n_inner": block.feedforward.width,
        "rotary_dim": round(block.attention.rotary.fraction * block.attention.head_width(width)),
        "activation_function": THEIRS[block.feedforward.activation],
        "layer_norm_epsilon": config.norm.epsilon,
        "tie_word_embeddings": config.readout.tied,
        "attn_pdrop": block.attention.dropout,
        "embd_pdrop": config.embed.dropout,
        "resid_pdrop": block.dropout,
        "torch_dtype": "float32",
    }


_BUFFERS = (r"transformer\.h\.\d+\.attn\.(bias|masked_bias|embed_positions)",)
FAMILY = Family(
    config=config, weights=weights, heads=CLASSIFIED, settings=settings, prefix="transformer.", ignored=_BUFFERS
)
