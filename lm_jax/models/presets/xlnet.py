"""XLNet (Yang et al. 2019, arXiv:1906.08237): a post-norm encoder with relative positions and two streams.

Initialisation N(0, 0.02) and dropout 0.1 are those of the released training script, which also applies dropout to the
sinusoids and to the last hidden states. The memory is 384 tokens; the second half of a row of 512 does not enter it.
"""

from __future__ import annotations

import ml_collections

from lm_jax.core.config import lookup
from lm_jax.models import config as models
from lm_jax.models.presets.common import NORMAL, one_stack

# `base` and `large`: settings and training command released with the weights.
SIZES = {
    "tiny": dict(depth=2, width=64, heads=2, length=512, memory=32, reuse=16),
    "base": dict(depth=12, width=768, heads=12, length=512, memory=384, reuse=256),
    "large": dict(depth=24, width=1024, heads=16, length=512, memory=384, reuse=256),
}


def xlnet(size: str = "base") -> ml_collections.ConfigDict:
    """Return XLNet's configuration in one of the `SIZES`."""
    shape = lookup(SIZES, size, "the size of xlnet")
    relative = models.TransformerXLConfig(types=True)
    return one_stack(
        shape,
        norm=models.NormConfig(epsilon=1e-12),
        attention=dict(bias=False, out_bias=False, position="transformer_xl", transformer_xl=relative),
        feedforward=dict(activation="gelu", dropout=0.1),
        embed=dict(positions="none"),
        placement="post",
        dropout=0.1,
        kind="encoder",
        final_norm=False,
        readout=models.ReadoutConfig(bias=True),
        two_stream=True,
        # XLNet's texts end with [CLS].
        task=models.TaskHeadConfig(pool="last", dense=True, activation="tanh", dropout=0.1),
        memory=models.MemoryConfig(length=shape["memory"], reuse=shape["reuse"]),
        init=NORMAL,
    )
