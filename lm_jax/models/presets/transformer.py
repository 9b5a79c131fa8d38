"""The original Transformer (Vaswani et al. 2017, arXiv:1706.03762): post-norm, sinusoidal positions.

Initialisation: Xavier uniform matrices; N(0, 1 / width) embeddings, scaled by sqrt(width) (the released code).
"""

from __future__ import annotations

import ml_collections

from lm_jax.core.config import lookup
from lm_jax.models import config as models
from lm_jax.models.presets.common import Sizes, two_stacks

# Table 3: N, d_model, d_ff, h, P_drop.
SIZES: Sizes = {
    "tiny": dict(depth=2, width=64, mlp=128, heads=2, dropout=0.1),
    "base": dict(depth=6, width=512, mlp=2048, heads=8, dropout=0.1),
    "big": dict(depth=6, width=1024, mlp=4096, heads=16, dropout=0.3),
}


def transformer(size: str = "base") -> ml_collections.ConfigDict:
    """Return the Transformer's configuration in one of the `SIZES`, rows of table 3."""
    shape = lookup(SIZES, size, "the size of transformer")
    return two_stacks(
        shape,
        norm=models.NormConfig(epsilon=1e-6),
        attention=dict(bias=False, out_bias=False, dropout=0.0),
        feedforward=dict(activation="relu"),
        embed=dict(positions="sinusoidal", scale=True),
        placement="post",
        dropout=shape["dropout"],
        init=models.InitConfig(name="xavier_uniform", embed_stddev=shape["width"] ** -0.5),
    )
