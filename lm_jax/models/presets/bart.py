"""BART (Lewis et al. 2020, arXiv:1910.13461), Marian (Junczys-Dowmunt et al. 2018, arXiv:1804.00344) and Pegasus.

Encoder-decoders close to the original Transformer. BART learns positions and normalises embeddings; Marian and Pegasus
(Zhang et al. 2020, arXiv:1912.08777) have sinusoidal positions; Pegasus is pre-norm.
Initialisation: N(0, 0.02); dropout 0.1, except on Marian's attention (both: the released configurations).
"""

from __future__ import annotations

from typing import Any

import ml_collections

from lm_jax.core.config import lookup
from lm_jax.models import config as models
from lm_jax.models.presets.common import NORMAL, Shape, two_stacks

SINUSOIDS = dict(positions="sinusoidal_halves", scale=True)

# Section 2.1: 6 or 12 layers on each side, with BERT's widths.
BART = {
    "tiny": dict(depth=2, width=64, heads=2, length=64),
    "base": dict(depth=6, width=768, heads=12, length=1024),
    "large": dict(depth=12, width=1024, heads=16, length=1024),
}
# OPUS-MT (Tiedemann and Thottingal 2020, section 2): "transformer-base". Each language pair has its own vocabulary;
# `PRESETS` has the one of English and German.
MARIAN = {"tiny": dict(depth=2, width=64, heads=2, length=64), "base": dict(depth=6, width=512, heads=8, length=512)}
# Section 6.
PEGASUS = {
    "tiny": dict(depth=2, width=64, heads=2, length=64),
    "base": dict(depth=12, width=768, heads=12, length=512),
    "large": dict(depth=16, width=1024, heads=16, length=1024),
}


def bart(size: str = "base") -> ml_collections.ConfigDict:
    """Return BART's configuration in one of the `BART` sizes."""
    shape = lookup(BART, size, "the size of bart")
    return _encoder_decoder(shape, "gelu", embed=dict(positions="learned", offset=2, norm=True))


def marian(size: str = "base") -> ml_collections.ConfigDict:
    """Return OPUS-MT's configuration of Marian in one of the `MARIAN` sizes; its logits have a bias."""
    options = dict(attention=dict(dropout=0.0), embed=SINUSOIDS, readout=models.ReadoutConfig(bias=True))
    return _encoder_decoder(lookup(MARIAN, size, "the size of marian"), "silu", **options)


def pegasus(size: str = "large") -> ml_collections.ConfigDict:
    """Return Pegasus's configuration in one of the `PEGASUS` sizes."""
    return _encoder_decoder(lookup(PEGASUS, size, "the size of pegasus"), "relu", embed=SINUSOIDS, placement="pre")


def _encoder_decoder(shape: Shape, activation: str, **options: Any) -> ml_collections.ConfigDict:
    """Return the configuration that all three share; `options` are arguments of `two_stacks`."""
    options = {"placement": "post", "dropout": 0.1, **options}
    return two_stacks(shape, norm=models.NormConfig(), feedforward=dict(activation=activation), init=NORMAL, **options)
