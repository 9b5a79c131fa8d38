"""Pads rows to one of a few shapes, so that few programs are compiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lm_jax.core.config import InputError
from lm_jax.core.trees import Params
from lm_jax.models import prompts
from lm_jax.models.config import EmbedConfig
from lm_jax.parallel.layout import Layout

NOT_FINITE = "the model computes NaN or infinity: its parameters are damaged or diverged; use another --checkpoint"


def bucket(length: int, longest: int | None = None, shortest: int = 16) -> int:
    """`length` rounded up to a power of two, at least `shortest`, and at most `longest` unless `length` is more."""
    size = max(shortest, 1 << max(length - 1, 0).bit_length())
    return size if longest is None else max(min(size, longest), length)


def divisible(count: int, layout: Layout | None) -> int:
    """`count` rounded up to a multiple of the layout's batch divisor."""
    divisor = 1 if layout is None else layout.divisor("batch")
    return -(-count // divisor) * divisor


def allowed(forbidden: Sequence[int], vocab: int) -> np.ndarray:
    """Boolean [vocab], False at forbidden ids; raises InputError if all ids are forbidden."""
    mask = np.ones(vocab, bool)
    mask[[token for token in forbidden if 0 <= token < vocab]] = False
    if not mask.any():
        raise InputError(f"all {vocab} ids of the vocabulary are forbidden; allow at least one")
    return mask


def replicated(tree: Any, layout: Layout | None) -> Any:
    """Replicates every array on all devices, so that every process can read it."""
    if layout is None or layout.mesh.size == 1:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, layout.replicated), tree)


def token_arrays(rows: Sequence[Any], vocab: int, name: str) -> list[np.ndarray]:
    """Converts rows to int32 arrays; `name` is for messages.

    Raises:
      InputError: a row is not a list of ids, or an id is outside the model's vocabulary.
    """
    arrays = []
    for number, row in enumerate(rows):
        ids = np.asarray(row)
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise InputError(f"{name} {number} is an array {ids.dtype}{list(ids.shape)}; expected a list of token ids")
        if ids.size and not 0 <= ids.min() <= ids.max() < vocab:
            wrong = ids[(ids < 0) | (ids >= vocab)][0]
            raise InputError(
                f"{name} {number} holds id {wrong}, but the model's vocabulary is 0..{vocab - 1}; "
                "use the tokenizer that the model was trained with"
            )
        arrays.append(ids.astype(np.int32))
    return arrays


def longest(embed: EmbedConfig, params: Params) -> int | None:
    """The most tokens of a model with learned positions, beside its learned tokens; None for other positions."""
    return embed.max_length - prompts.count(params) if embed.positions == "learned" else None


def right_padded(rows: Sequence[np.ndarray], count: int, length: int, pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and segments [count, length]: rows padded on the right with segment 0, then rows of padding only."""
    tokens, segments = np.full((count, length), pad, np.int32), np.zeros((count, length), np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
        segments[number, : len(row)] = 1
    return tokens, segments


def left_padded(
    rows: Sequence[np.ndarray], count: int, length: int, pad: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, positions and segments [count, length], padded on the left: all rows end in the last column.

    Positions count from a row's first token, so padding does not change what the model computes for a prompt.
    """
    tokens, segments = np.full((count, length), pad, np.int32), np.zeros((count, length), np.int32)
    positions = np.zeros((count, length), np.int32)
    for number, row in enumerate(rows):
        start = length - len(row)
        tokens[number, start:], segments[number, start:] = row, 1
        positions[number, start:] = np.arange(len(row))
    return tokens, positions, segments
