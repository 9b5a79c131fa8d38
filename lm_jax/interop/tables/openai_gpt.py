"""GPT (Radford et al. 2018): GPT-2's matrices in post-norm layers; what it calls gelu is the tanh approximation."""

from __future__ import annotations

from typing import Any

from lm_jax.core.config import lookup
from lm_jax.interop.family import Family
from lm_jax.interop.heads import CLASSIFIED
from lm_jax.interop.rules import Rules, same
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import common, gpt2
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Their settings to ours."""
    hf.architecture("OpenAIGPTLMHeadModel", "OpenAIGPTModel")
    activation = hf.activation("afn", default="gelu")
    norm = models.NormConfig(epsilon=float(hf.get("layer_norm_epsilon", default=1e-5)))
    block = models.BlockConfig(
        attention=models.AttentionConfig(heads=hf.get("n_head", "num_attention_heads")),
        feedforward=models.FeedForwardConfig(activation="gelu_tanh" if activation == "gelu" else activation),
        norm=norm,
        norm_placement="post",
    )
    return models.TransformerConfig(
        embed=models.EmbedConfig(
            vocab=hf.get("vocab_size"),
            width=hf.get("n_embd", "hidden_size"),
            max_length=hf.get("n_positions", "max_position_embeddings"),
        ),
        stack=models.StackConfig(depth=hf.get("n_layer", "num_hidden_layers"), block=block),
        norm=norm,
        final_norm=False,
        readout=models.ReadoutConfig(tied=hf.tied(True)),
    )


def weights(config: models.TransformerConfig, architecture: str) -> Rules:
    """Which tensor is which."""
    rules = [
        same("token/embedding", "transformer.tokens_embed.weight"),
        same("embed/position", "transformer.positions_embed.weight"),
    ]
    rules += common.readout(config.readout, "lm_head.weight")
    return rules + gpt2.layers(config)


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Our settings to theirs; the class has these activations only."""
    activations = {"gelu_tanh": "gelu", "relu": "relu", "silu": "silu"}
    block = config.stack.block
    return {
        "model_type": "openai-gpt",
        "architectures": ["OpenAIGPTLMHeadModel"],
        "vocab_size": config.embed.vocab,
        "n_positions": config.embed.max_length,
        "n_embd": config.embed.width,
        "n_layer": config.stack.depth,
        "n_head": block.attention.heads,
        "afn": lookup(activations, block.feedforward.activation, "an activation of GPT"),
        "layer_norm_epsilon": config.norm.epsilon,
        "tie_word_embeddings": config.readout.tied,
        "attn_pdrop": block.attention.dropout,
        "embd_pdrop": config.embed.dropout,
        "resid_pdrop": block.dropout,
        "torch_dtype": "float32",
    }


_BUFFERS = (r"transformer\.h\.\d+\.attn\.bias", r"transformer\.position_ids", r"lm_head\.weight")
FAMILY = Family(
    config=config, weights=weights, heads=CLASSIFIED, settings=settings, prefix="transformer.", ignored=_BUFFERS
)
