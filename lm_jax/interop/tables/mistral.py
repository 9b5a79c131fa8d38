"""Mistral (Jiang et al. 2023, arXiv:2310.06825): LLaMA's layers, all of which may look back through a window only."""

from __future__ import annotations

from lm_jax.interop.family import Family
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import llama
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Their settings to ours."""
    hf.architecture("MistralForCausalLM", "MistralModel")
    # null is no window, and no entry at all is the first release's.
    window = hf.nullable("sliding_window", 4096)
    attention = models.AttentionConfig(
        bias=False, out_bias=False, window=window, rotary=hf.rotary(10000.0), **llama.sizes(hf)
    )
    return llama.assembled(hf, attention)


FAMILY = Family(config=config, weights=llama.weights, prefix="model.", ignored=llama.IGNORED)
