"""Masks over positions as masks over indices, which the splash kernel reads block by block.

Apart from `splash.py`, because only runs on a TPU need the import.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask

from lm_jax.models.attention.masks import Mask, TokenPositions


@dataclasses.dataclass(frozen=True)
class IndexMask(splash_attention_mask.Mask):
    """The pairs of a query's and a key's index that a mask allows.

    The kernel skips blocks without an allowed pair, and stores each different block of some allowed pairs once.

    Attributes:
      mask: the mask over positions.
      sizes: numbers of queries and keys, padding included.
      shift: key index of the first query's own token.
      keys: number of first keys that are not padding.
    """

    mask: Mask
    sizes: tuple[int, int]
    shift: int
    keys: int

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of queries and keys."""
        return self.sizes

    def __getitem__(self, index: Any) -> np.ndarray:
        """The block of a pair of slices: bool [queries keys]."""
        rows, columns = (np.arange(size)[part] for size, part in zip(self.sizes, index, strict=True))
        query, key = rows[:, None] + self.shift, columns[None]
        allowed = np.broadcast_to(key < self.keys, (len(rows), len(columns)))
        if self.mask.allow is not None:
            allowed = allowed & np.asarray(self.mask.allow(TokenPositions(query), TokenPositions(key)))
        return np.ascontiguousarray(allowed)
