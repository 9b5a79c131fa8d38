"""OPT (Zhang et al. 2022, arXiv:2205.01068): GPT-3's shapes with ReLU; 350M is post-norm with factorised embeddings.

Initialisation: N(0, 0.006), residual writes scaled by depth; dropout 0.1, but not on embeddings (section 2.2) nor, in
the released configurations, on attention.
"""

from __future__ import annotations

import ml_collections

from lm_jax.core.config import lookup
from lm_jax.models import config as models
from lm_jax.models.presets.common import Sizes, one_stack

# Table 1; post-norm and the factor of 350M from the released configuration.
SIZES: Sizes = {
    "tiny": dict(depth=2, width=64, heads=2, length=64),
    "125m": dict(depth=12, width=768, heads=12, length=2048),
    "350m": dict(depth=24, width=1024, heads=16, factor=512, placement="post", length=2048),
    "1.3b": dict(depth=24, width=2048, heads=32, length=2048),
    "2.7b": dict(depth=32, width=2560, heads=32, length=2048),
    "6.7b": dict(depth=32, width=4096, heads=32, length=2048),
    "13b": dict(depth=40, width=5120, heads=40, length=2048),
    "30b": dict(depth=48, width=7168, heads=56, length=2048),
    "66b": dict(depth=64, width=9216, heads=72, length=2048),
    "175b": dict(depth=96, width=12288, heads=96, length=2048),
}


def opt(size: str = "125m") -> ml_collections.ConfigDict:
    """Return OPT's configuration in one of the `SIZES`."""
    shape = lookup(SIZES, size, "the size of opt")
    factorised = dict(factor=shape["factor"], factor_first=True) if "factor" in shape else {}
    placement = shape.get("placement", "pre")
    return one_stack(
        shape,
        norm=models.NormConfig(),
        placement=placement,
        attention=dict(dropout=0.0),
        feedforward=dict(activation="relu"),
        embed=dict(offset=2, dropout=0.0, factor_bias=False, **factorised),
        dropout=0.1,
        final_norm=placement == "pre",
        init=models.InitConfig(name="normal", stddev=0.006, scale_residual=True),
    )
