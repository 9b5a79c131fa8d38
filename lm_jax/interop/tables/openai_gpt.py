"""GPT (Radford et al. 2018): GPT-2's matrices in post-norm layers; its "gelu" is the tanh approximation."""

from __future__ import annotations

from typing import Any

from lm_jax.core.config import lookup
from lm_jax.interop.heads import SCORED, SEQUENCES, Heads
from lm_jax.interop.rules import Rules
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import common, gpt2
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Convert config.json to a model configuration."""
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
    """Return the rules that map checkpoint tensors to parameters."""
    rules = common.outside(config, "transformer.tokens_embed", position="transformer.positions_embed")
    return rules + gpt2.layers(config.stack)


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to config.json; the class supports three activations."""
    activations = {"gelu_tanh": "gelu", "relu": "relu", "silu": "silu"}
    activation = lookup(activations, config.stack.block.feedforward.activation, "an activation of GPT")
    names = {**gpt2.FIELDS, "activation": ""}
    return {**common.config_json(config, "openai-gpt", "OpenAIGPTLMHeadModel", **names), "afn": activation}


_BUFFERS = (r"transformer\.h\.\d+\.attn\.bias", r"transformer\.position_ids", r"lm_head\.weight")
HEADS: Heads = {SEQUENCES: SCORED[SEQUENCES]}
FAMILY = common.decoder(config, weights, settings, HEADS, prefix="transformer.", ignored=_BUFFERS)
