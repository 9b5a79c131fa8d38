"""Qwen2 (Yang et al. 2024, arXiv:2407.10671) and Qwen3 (Yang et al. 2025, arXiv:2505.09388).

Qwen2 is LLaMA with biases on queries, keys and values; Qwen3 normalises queries and keys instead.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import common, llama
from lm_jax.models import config as models


def qwen2(hf: Settings) -> models.TransformerConfig:
    """Convert Qwen2's config.json to a model configuration."""
    hf.architecture("Qwen2ForCausalLM", "Qwen2Model")
    attention = models.AttentionConfig(bias=True, out_bias=False, rotary=hf.rotary(10000.0), **llama.sizes(hf))
    return _windowed(hf, attention)


def qwen3(hf: Settings) -> models.TransformerConfig:
    """Convert Qwen3's config.json to a model configuration."""
    hf.architecture("Qwen3ForCausalLM", "Qwen3Model")
    biased = hf.get("attention_bias", default=False)
    attention = models.AttentionConfig(
        bias=biased, out_bias=biased, qk_norm=True, rotary=hf.rotary(10000.0), **llama.sizes(hf, head_dim=128)
    )
    return _windowed(hf, attention)


def _windowed(hf: Settings, attention: models.AttentionConfig) -> models.TransformerConfig:
    """Return a decoder, whose last layers may have windows."""
    window, depth = hf.nullable("sliding_window", 4096), hf.get("num_hidden_layers")
    slides = window is not None and hf.get("use_sliding_window", default=False)
    first = hf.get("max_window_layers", default=28)
    fallback = ["sliding_attention" if slides and at >= first else "full_attention" for at in range(depth)]
    types = hf.layer_types(depth, fallback)
    # `use_sliding_window: false` overrides `layer_types`.
    names = ["local" if slides and kind == "sliding_attention" else "block" for kind in types]
    return llama.decoder(hf, attention, kinds={"local": {"attention": {"window": window}}}, pattern=names)


def settings2(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to Qwen2's config.json."""
    return {**llama.config_json(config, "qwen2", "Qwen2ForCausalLM"), **_windows(config)}


def settings3(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to Qwen3's config.json."""
    biased = config.stack.block.attention.bias
    return {**llama.config_json(config, "qwen3", "Qwen3ForCausalLM"), "attention_bias": biased, **_windows(config)}


def _windows(config: models.TransformerConfig) -> dict[str, Any]:
    window, local = common.windows(config.stack)
    types = ["sliding_attention" if windowed else "full_attention" for windowed in local]
    return {"use_sliding_window": window is not None, "sliding_window": window, "layer_types": types}


# transformers 5 always takes this tokenizer (MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS).
QWEN2 = dataclasses.replace(llama.family(qwen2, settings2, llama.HEADS), tokenizer="Qwen2Tokenizer")
QWEN3 = llama.family(qwen3, settings3, llama.HEADS)
