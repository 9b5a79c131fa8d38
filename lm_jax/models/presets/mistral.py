"""Mistral 7B (Jiang et al. 2023, arXiv:2310.06825) and Mixtral (Jiang et al. 2024, arXiv:2401.04088).

LLaMA with a sliding window (Mistral) or with eight experts, two of which each token uses (Mixtral).
The papers do not give the initialisation; N(0, 0.02) with scaled residual writes is GPT-2's.
"""

from __future__ import annotations

import ml_collections

from lm_jax.core.config import lookup
from lm_jax.models import config as models
from lm_jax.models.presets.llama import gated

# Table 1 of each paper; lengths and 8x22b from the released configurations.
MISTRAL = {
    "tiny": dict(depth=2, width=64, heads=4, kv_heads=2, mlp=128, window=16, length=128),
    "7b": dict(depth=32, width=4096, heads=32, kv_heads=8, mlp=14336, window=4096, length=32768),
}
MIXTRAL = {
    "tiny": dict(depth=2, width=64, heads=4, kv_heads=2, mlp=96, experts=4, length=128),
    "8x7b": dict(depth=32, width=4096, heads=32, kv_heads=8, mlp=14336, experts=8, length=32768),
    "8x22b": dict(depth=56, width=6144, heads=48, kv_heads=8, mlp=16384, experts=8, length=65536),
}


def mistral(size: str = "7b") -> ml_collections.ConfigDict:
    """Return the configuration of Mistral's first version in one of the `MISTRAL` sizes."""
    shape = lookup(MISTRAL, size, "the size of mistral")
    return gated(shape, epsilon=1e-5, rotary=models.RotaryConfig(), attention=dict(window=shape["window"]))


def mixtral(size: str = "8x7b") -> ml_collections.ConfigDict:
    """Return Mixtral's configuration in one of the `MIXTRAL` sizes."""
    shape = lookup(MIXTRAL, size, "the size of mixtral")
    experts = models.ExpertsConfig(count=shape["experts"], top=2)
    return gated(shape, epsilon=1e-5, rotary=models.RotaryConfig(theta=1e6), feedforward=dict(experts=experts))
