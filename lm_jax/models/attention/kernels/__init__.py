"""Kernels of softmax attention. All take the mask as a predicate and compute the same function.

To add a kernel, write a file with a function of the same signature and add it to `KERNELS`.
"""

from __future__ import annotations

from lm_jax.core.config import lookup
from lm_jax.models.attention.kernels.blockwise import blockwise
from lm_jax.models.attention.kernels.dense import dense
from lm_jax.models.attention.masks import Visibility

KERNELS = {"dense": dense, "blockwise": blockwise}


def choose(name: str, visibility: Visibility, queries: int, keys: int, block: int):
    """Looks up a kernel by name; `auto` is blockwise where blocks of keys can be skipped."""
    if name == "auto":
        skips = visibility.positions_are_indices and visibility.mask.reach(0, block, keys) != (0, keys)
        name = "blockwise" if skips and queries > block else "dense"
    return lookup(KERNELS, name, "attention.kernel")
