"""MPT (MosaicML 2023, "Introducing MPT-7B"): a pre-norm decoder with ALiBi and without biases.

Its announcement does not give the initialisation; N(0, 0.02) with scaled residual writes is GPT-2's.
"""

from __future__ import annotations

import ml_collections

from lm_jax.core.config import lookup
from lm_jax.models import config as models
from lm_jax.models.presets.common import SCALED, one_stack

# The released configurations.
SIZES = {
    "tiny": dict(depth=2, width=64, heads=2, length=64),
    "7b": dict(depth=32, width=4096, heads=32, length=2048),
    "30b": dict(depth=48, width=7168, heads=64, length=8192),
}


def mpt(size: str = "7b") -> ml_collections.ConfigDict:
    """Return MPT's configuration in one of the `SIZES`."""
    return one_stack(
        lookup(SIZES, size, "the size of mpt"),
        norm=models.NormConfig(bias=False),
        attention=dict(bias=False, out_bias=False, position="alibi"),
        feedforward=dict(activation="gelu", bias=False),
        embed=dict(positions="none"),
        init=SCALED,
    )
