"""Mistral (Jiang et al. 2023, arXiv:2310.06825): LLaMA's layers, all of which may look back through a window only."""

from __future__ import annotations

from typing import Any

from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import llama
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Their settings to ours."""
    hf.architecture("MistralForCausalLM", "MistralModel")
    # No entry at all is the first release's window.
    return llama.assembled(hf, attention(hf, window=4096, theta=10000.0))


def attention(hf: Settings, *, window: int | None, theta: float) -> models.AttentionConfig:
    """Attention without biases; `window` and `theta` are what a missing entry means, a window of null is none."""
    window = hf.nullable("sliding_window", window)
    return models.AttentionConfig(bias=False, out_bias=False, window=window, rotary=hf.rotary(theta), **llama.sizes(hf))


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Our settings to theirs."""
    return {
        **llama.written(config, "mistral", "MistralForCausalLM"),
        "sliding_window": config.stack.block.attention.window,
    }


FAMILY = llama.family(config, settings)
