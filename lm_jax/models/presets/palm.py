"""PaLM (Chowdhery et al. 2022, arXiv:2204.02311): parallel layers, multi-query attention, SwiGLU, no biases.

Initialisation: variance 1 / fan-in, embeddings N(0, 1) and logits scaled by 1 / sqrt(width) (section 5).
"""

from __future__ import annotations

import ml_collections

from lm_jax.core.config import lookup
from lm_jax.models import config as models
from lm_jax.models.presets.common import one_stack

# Table 1, which also gives the numbers of parameters; heads of 256; the vocabulary is that of section 2.
SIZES = {
    "tiny": dict(depth=2, width=64, heads=4, head_dim=16, length=64),
    "8b": dict(depth=32, width=4096, heads=16, length=2048),
    "62b": dict(depth=64, width=8192, heads=32, length=2048),
    "540b": dict(depth=118, width=18432, heads=48, length=2048),
}


def palm(size: str = "8b") -> ml_collections.ConfigDict:
    """Return PaLM's configuration in one of the `SIZES`."""
    return one_stack(
        {"head_dim": 256, "kv_heads": 1, **lookup(SIZES, size, "the size of palm")},
        norm=models.NormConfig(bias=False),
        placement="parallel",
        attention=dict(bias=False, out_bias=False, position="rotary"),
        feedforward=dict(activation="silu", gated=True, bias=False),
        embed=dict(positions="none"),
        readout=models.ReadoutConfig(scale=True),
        init=models.InitConfig(name="fan_in", embed_stddev=1.0),
    )
