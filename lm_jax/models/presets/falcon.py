"""Falcon (Almazrouei et al. 2023, arXiv:2311.16867): parallel layers and multi-query attention.

The paper does not give the initialisation; N(0, 0.02) with scaled residual writes is GPT-2's.
"""

from __future__ import annotations

import ml_collections

from lm_jax.core.config import lookup
from lm_jax.models import config as models
from lm_jax.models.presets.common import SCALED, Sizes, one_stack

# The released configurations; the larger models have one norm for attention and one for feed-forward.
SIZES: Sizes = {
    "tiny": dict(depth=2, width=64, heads=4, kv_heads=1, placement="parallel", length=64),
    "7b": dict(depth=32, width=4544, heads=71, kv_heads=1, placement="parallel", length=2048),
    "40b": dict(depth=60, width=8192, heads=128, kv_heads=8, placement="parallel_two", length=2048),
    "180b": dict(depth=80, width=14848, heads=232, kv_heads=8, placement="parallel_two", length=2048),
}


def falcon(size: str = "7b") -> ml_collections.ConfigDict:
    """Return Falcon's configuration in one of the `SIZES`."""
    shape = lookup(SIZES, size, "the size of falcon")
    return one_stack(
        shape,
        norm=models.NormConfig(),
        placement=shape["placement"],
        attention=dict(bias=False, out_bias=False, position="rotary"),
        feedforward=dict(activation="gelu", bias=False),
        embed=dict(positions="none"),
        init=SCALED,
    )
