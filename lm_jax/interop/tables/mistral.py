"""Mistral (Jiang et al. 2023, arXiv:2310.06825): LLaMA's layers with sliding-window attention."""

from __future__ import annotations

from typing import Any

from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import llama
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Convert config.json to a model configuration."""
    hf.architecture("MistralForCausalLM", "MistralModel")
    # A missing field means the first release's window of 4,096.
    return llama.decoder(hf, attention(hf, window=4096, theta=10000.0))


def attention(hf: Settings, *, window: int | None, theta: float) -> models.AttentionConfig:
    """Return attention without biases; `window` and `theta` stand for missing fields, null means no window."""
    window = hf.nullable("sliding_window", window)
    return models.AttentionConfig(bias=False, out_bias=False, window=window, rotary=hf.rotary(theta), **llama.sizes(hf))


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to config.json."""
    return {
        **llama.config_json(config, "mistral", "MistralForCausalLM"),
        "sliding_window": config.stack.block.attention.window,
    }


FAMILY = llama.family(config, settings)
