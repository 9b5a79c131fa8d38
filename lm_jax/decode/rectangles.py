"""Rows of different lengths as one rectangle whose sizes repeat, so that few programs are ever compiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lm_jax.core.config import InputError
from lm_jax.models.config import EmbedConfig
from lm_jax.parallel.layout import Layout

NOT_FINITE = "the model computes what is not a number: its parameters are damaged or diverged; use another --checkpoint"


def bucket(length: int, longest: int | None = None, shortest: int = 16) -> int:
    """The next power of two, at least `shortest`, at most `longest` where that is given."""
    size = max(shortest, 1 << max(length - 1, 0).bit_length())
    return size if longest is None else max(min(size, longest), length)


def divisible(count: int, layout: Layout | None) -> int:
    """`count` rounded up to what the devices of a layout can share."""
    divisor = 1 if layout is None else layout.batch_divisor()
    return -(-count // divisor) * divisor


def allowed(forbidden: Sequence[int], vocab: int) -> np.ndarray:
    """Which ids of the vocabulary are not forbidden, as bools.

    Raises:
      InputError: all are.
    """
    kept = np.ones(vocab, bool)
    kept[[token for token in forbidden if 0 <= token < vocab]] = False
    if not kept.any():
        raise InputError(f"all {vocab} ids of the vocabulary are forbidden; leave some")
    return kept


def whole(tree: Any, layout: Layout | None) -> Any:
    """`tree` with a copy of every array on all devices, where every process can read it."""
    if layout is None or layout.mesh.size == 1:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, layout.replicated), tree)


def checked(rows: Sequence[Any], vocab: int, what: str) -> list[np.ndarray]:
    """The rows as int32 arrays.

    Raises:
      InputError: a row is not a list of ids, or an id is outside the model's vocabulary.
    """
    arrays = []
    for number, row in enumerate(rows):
        ids = np.asarray(row)
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise InputError(f"{what} {number} is an array {ids.dtype}{list(ids.shape)}; expected a list of token ids")
        if ids.size and not 0 <= ids.min() <= ids.max() < vocab:
            wrong = ids[(ids < 0) | (ids >= vocab)][0]
            raise InputError(
                f"{what} {number} holds id {wrong}, but the model's vocabulary is 0..{vocab - 1}; "
                "use the tokenizer that the model was trained with"
            )
        arrays.append(ids.astype(np.int32))
    return arrays


def longest(embed: EmbedConfig) -> int | None:
    """The most tokens that a model can place; None where positions have no table."""
    return embed.max_length if embed.positions == "learned" else None


def right_padded(rows: Sequence[np.ndarray], count: int, length: int, pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and segments [count, length]: text first, then padding of segment 0; rows beyond the given are padding."""
    tokens, segments = np.full((count, length), pad, np.int32), np.zeros((count, length), np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
        segments[number, : len(row)] = 1
    return tokens, segments


def left_padded(
    rows: Sequence[np.ndarray], count: int, length: int, pad: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, positions and segments [count, length] with the padding first: all texts end in the last column.

    Positions count a row's own tokens, so that a prompt is the same text however far it is padded.
    """
    tokens, segments = np.full((count, length), pad, np.int32), np.zeros((count, length), np.int32)
    positions = np.zeros((count, length), np.int32)
    for number, row in enumerate(rows):
        start = length - len(row)
        tokens[number, start:], segments[number, start:] = row, 1
        positions[number, start:] = np.arange(len(row))
    return tokens, positions, segments
