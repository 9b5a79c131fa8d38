"""BLOOM (Scao et al. 2022, arXiv:2211.05100): a pre-norm decoder with ALiBi and an embedding norm.

Initialisation: N(0, 1 / (3 width)), residual writes scaled by depth (the released training scripts).
"""

from __future__ import annotations

import ml_collections

from lm_jax.core.config import lookup
from lm_jax.models import config as models
from lm_jax.models.presets.common import one_stack

# Table 3.
SIZES = {
    "tiny": dict(depth=2, width=64, heads=2, length=64),
    "560m": dict(depth=24, width=1024, heads=16, length=2048),
    "1b1": dict(depth=24, width=1536, heads=16, length=2048),
    "1b7": dict(depth=24, width=2048, heads=16, length=2048),
    "3b": dict(depth=30, width=2560, heads=32, length=2048),
    "7b1": dict(depth=30, width=4096, heads=32, length=2048),
    "176b": dict(depth=70, width=14336, heads=112, length=2048),
}


def bloom(size: str = "560m") -> ml_collections.ConfigDict:
    """Return BLOOM's configuration in one of the `SIZES`."""
    shape = lookup(SIZES, size, "the size of bloom")
    return one_stack(
        shape,
        norm=models.NormConfig(),
        attention=dict(position="alibi"),
        feedforward=dict(activation="gelu_tanh"),
        embed=dict(positions="none", norm=True),
        init=models.InitConfig(name="normal", stddev=(3 * shape["width"]) ** -0.5, scale_residual=True),
    )
