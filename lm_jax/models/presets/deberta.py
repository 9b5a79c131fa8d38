"""DeBERTa-v3 (He et al. 2021, arXiv:2111.09543): a post-norm encoder with disentangled attention.

Scores add content-to-position and position-to-content terms, over logarithmic buckets of relative positions that share
the projections of the content (He et al. 2020, arXiv:2006.03654); tokens have no absolute positions.
Initialisation: N(0, 0.02) (the released configurations).
"""

from __future__ import annotations

import ml_collections

from lm_jax.core.config import lookup
from lm_jax.models import config as models
from lm_jax.models.presets.common import NORMAL, one_stack

# `base` and `large`: appendix, table of hyper-parameters; `xsmall` and `small`: the released configurations.
SIZES = {
    "tiny": dict(depth=2, width=64, heads=2, buckets=16, length=128),
    "xsmall": dict(depth=12, width=384, heads=6, buckets=256, length=512),
    "small": dict(depth=6, width=768, heads=12, buckets=256, length=512),
    "base": dict(depth=12, width=768, heads=12, buckets=256, length=512),
    "large": dict(depth=24, width=1024, heads=16, buckets=256, length=512),
}


def deberta(size: str = "base") -> ml_collections.ConfigDict:
    """Return DeBERTa-v3's configuration in one of the `SIZES`."""
    shape = lookup(SIZES, size, "the size of deberta")
    disentangled = models.DisentangledConfig(buckets=shape["buckets"], max_distance=shape["length"])
    return one_stack(
        shape,
        norm=models.NormConfig(epsilon=1e-7),
        attention=dict(position="disentangled", disentangled=disentangled),
        feedforward=dict(activation="gelu"),
        embed=dict(factor_bias=False, positions="none", norm=True, norm_last=True, blank_padding=True),
        placement="post",
        dropout=0.1,
        kind="encoder",
        final_norm=False,
        readout=models.ReadoutConfig(bias=True, transform="gelu"),
        pair_activation="gelu",
        task=models.TaskHeadConfig(dense=True, activation="gelu", dropout=0.1),
        init=NORMAL,
    )
