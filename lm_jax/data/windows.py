"""Windows over texts that are too long for a row, as in question answering (Devlin et al. 2019, released code)."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows:
    """A text column whose long entries take several rows, each a window that overlaps with the one before.

    Attributes:
      column: the text column.
      beside: the text columns that each of these rows holds too, up to their maximum in `Reads.columns`.
      room: tokens of a row for the window and the texts beside it.
      overlap: tokens that a window shares with the one before.
    """

    column: str
    beside: tuple[str, ...] = ()
    room: int
    overlap: int


def divide(
    sizes: Int[np.ndarray, " records"], room: Int[np.ndarray, " records"], overlap: int
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
    """Divide texts into windows; the last window of a text may be short, and adds at least one token to those before.

    Args:
      sizes: tokens of each text.
      room: tokens of a window of each text.
      overlap: tokens that a window shares with the one before.

    Returns:
      The index of the text of each window, ascending, and the first token of the window.

    Raises:
      InputError: a window is not longer than the overlap.

    Example:
      >>> texts, starts = divide(np.array([9, 3, 10]), np.array([5, 5, 6]), 2)
      >>> texts.tolist(), starts.tolist()
      ([0, 0, 0, 1, 2, 2], [0, 3, 6, 0, 0, 4])
    """
    strides = room - overlap
    if (strides < 1).any():
        raise InputError(
            f"config.data.length leaves {room.min()} tokens of a row for a window of the text, but neighbouring "
            f"windows share {overlap}; increase it, or lower the overlap"
        )
    counts = 1 + np.maximum(0, -(-(sizes - room) // strides))
    texts = np.repeat(np.arange(len(sizes)), counts)
    return texts, (np.arange(len(texts)) - (np.cumsum(counts) - counts)[texts]) * strides[texts]
