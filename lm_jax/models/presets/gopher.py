"""Gopher (Rae et al. 2021, arXiv:2112.11446) and Chinchilla (Hoffmann et al. 2022, arXiv:2203.15556).

Decoders with RMS norm and Transformer-XL's relative positions (Dai et al. 2019, arXiv:1901.02860), whose additional
matrix in each layer is needed to reach the published sizes. The papers give neither the biases (here only feed-forward
layers have them) nor the initialisation; N(0, 0.02) with scaled residual writes is GPT-2's.
"""

from __future__ import annotations

import ml_collections

from lm_jax.core.config import lookup
from lm_jax.models import config as models
from lm_jax.models.presets.common import SCALED, Shape, one_stack

# Gopher's table 1: layers, heads, key and value size, width.
GOPHER = {
    "tiny": dict(depth=2, width=64, heads=2, head_dim=32, length=64),
    "44m": dict(depth=8, width=512, heads=16, head_dim=32, length=2048),
    "117m": dict(depth=12, width=768, heads=12, head_dim=64, length=2048),
    "417m": dict(depth=12, width=1536, heads=12, head_dim=128, length=2048),
    "1.4b": dict(depth=24, width=2048, heads=16, head_dim=128, length=2048),
    "7.1b": dict(depth=32, width=4096, heads=32, head_dim=128, length=2048),
    "280b": dict(depth=80, width=16384, heads=128, head_dim=128, length=2048),
}
# Chinchilla's table 4.
CHINCHILLA = {"tiny": dict(GOPHER["tiny"]), "70b": dict(depth=80, width=8192, heads=64, head_dim=128, length=2048)}


def gopher(size: str = "117m") -> ml_collections.ConfigDict:
    """Return Gopher's configuration in one of the `GOPHER` sizes."""
    return _decoder(lookup(GOPHER, size, "the size of gopher"))


def chinchilla(size: str = "70b") -> ml_collections.ConfigDict:
    """Return Chinchilla's configuration in one of the `CHINCHILLA` sizes."""
    return _decoder(lookup(CHINCHILLA, size, "the size of chinchilla"))


def _decoder(shape: Shape) -> ml_collections.ConfigDict:
    return one_stack(
        shape,
        norm=models.NormConfig(name="rms", epsilon=1e-6),
        attention=dict(bias=False, out_bias=False, position="transformer_xl"),
        feedforward=dict(activation="gelu"),
        embed=dict(positions="none"),
        init=SCALED,
    )
