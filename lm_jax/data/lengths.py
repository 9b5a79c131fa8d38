"""Lengths of rows that are known without reading them: batches cut to a bucket, and rows of similar length together.

Every host knows the lengths of all rows of the global batch, so all hosts cut it alike.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError
from lm_jax.data import order
from lm_jax.data.rows import Filled, Row, Rows, permuted

# Windows that are kept: threads build batches of neighbouring windows.
_KEPT = 4
# The cost of compiling a program for another length, in tokens: as many are computed in the same time.
PROGRAM = 4096
# Lengths are multiples of it, and at most so many are tried.
_MULTIPLE, _TRIED = 2, 128


@runtime_checkable
class Measured(Rows, Protocol):
    """Rows whose lengths are known without reading them."""

    def lengths(self) -> Int[np.ndarray, " rows"]:
        """Return the tokens of each row, or an upper bound; raise InputError if the objective does not say."""
        ...


def of(rows: Rows) -> Int[np.ndarray, " rows"]:
    """Return the tokens of each row of a plan, or an upper bound.

    Raises:
      InputError: the lengths are not known.
    """
    if not isinstance(rows, Measured):
        raise InputError("this row plan does not know how long its rows are; leave it out, or use the plan columns")
    return rows.lengths()


def of_filled(filled: Sequence[Filled]) -> Int[np.ndarray, " rows"]:
    """Return the lengths of rows, whose plans know them."""
    return np.array([plan.lengths()[index] for plan, _, _, index in filled], np.int64)


def economical(lengths: Int[np.ndarray, " rows"], longest: int) -> tuple[int, ...]:
    """Choose the lengths to which batches of rows of similar length are cut, so that all rows take the least work.

    The work is the tokens of the rows with their padding, and `PROGRAM` for each length.

    Args:
      lengths: the tokens of each row.
      longest: the longest row that may be; no result is longer.

    Returns:
      The lengths, ascending; the last holds all rows.

    Example:
      >>> economical(np.repeat([5, 30, 60], [10_000, 10, 2_000]), 128)
      (6, 60)
    """
    step = _MULTIPLE * -(-longest // (_MULTIPLE * _TRIED))
    sizes = np.minimum(np.arange(1, -(-max(1, int(lengths.max(initial=0))) // step) + 1) * step, longest)
    fitting = np.append(0, np.searchsorted(np.sort(lengths), sizes, "right"))
    # Of the rows that fit each size: the least work, and the size below the largest one in use.
    work, below = np.zeros(len(sizes) + 1), np.zeros(len(sizes) + 1, np.int64)
    for at, size in enumerate(sizes.tolist(), 1):
        choices = work[:at] + (fitting[at] - fitting[:at]) * size + PROGRAM
        below[at] = choices.argmin()
        work[at] = choices[below[at]]
    chosen, at = [], len(sizes)
    while at:
        chosen.append(int(sizes[at - 1]))
        at = int(below[at])
    return tuple(chosen[::-1])


@dataclasses.dataclass(frozen=True)
class Buckets:
    """The lengths to which batches are cut.

    Attributes:
      sizes: the lengths, ascending; the last is that of an uncut batch.
      axes: for each feature that has a length, the names of its axes; those named "length" are cut.
      real: features that are 0 at padding.

    Example:
      >>> buckets = Buckets((4, 8), {"tokens": ("length",), "segments": ("length",)}, ("segments",))
      >>> row = {"tokens": np.arange(8), "segments": np.repeat([1, 0], [3, 5]), "answers": np.int32(1)}
      >>> buckets.cut(row, buckets.fitting(np.array([2, 3])))["tokens"].tolist()
      [0, 1, 2, 3]
    """

    sizes: tuple[int, ...]
    axes: Mapping[str, tuple[str | None, ...]]
    real: tuple[str, ...] = ()

    def fitting(self, lengths: Int[np.ndarray, " rows"]) -> int:
        """Return the smallest bucket that holds rows of these lengths."""
        longest = int(lengths.max(initial=0))
        return next((size for size in self.sizes if size >= longest), self.sizes[-1])

    def cut(self, features: Mapping[str, Any], size: int) -> dict[str, Any]:
        """Cut the features of a row to a bucket; a feature that is shorter stays as it is.

        Raises:
          ValueError: a token would be lost, because the row is longer than its plan says.
        """
        result = dict(features)
        for name, axes in self.axes.items():
            result[name] = features[name][tuple(slice(size if axis == "length" else None) for axis in axes)]
        for name in self.real:
            if np.count_nonzero(result[name]) != np.count_nonzero(features[name]):
                raise ValueError(f"a row of at most {size} tokens has entries of {name!r} beyond them; mend its length")
        return result

    def of_batch(self, batch: Mapping[str, Any]) -> int:
        """Return the bucket of a batch."""
        shapes = {name: batch[name].shape[1:] for name in self.axes}
        return max(
            size
            for name, axes in self.axes.items()
            for axis, size in zip(axes, shapes[name], strict=True)
            if axis == "length"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Ascending:
    """Rows in the order of their lengths; `order` has the number of each row in `rows`.

    Attributes:
      rows: the plan of the rows.
    """

    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def order(self) -> Int[np.ndarray, " rows"]:
        """The rows, shortest first."""
        return np.argsort(of(self.rows), kind="stable")

    def row(self, index: int, epoch: int, rng: np.random.Generator) -> Row:
        """Return row `index` of an epoch."""
        return self.rows.row(int(self.order[index]), epoch, rng)

    @functools.cached_property
    def _lengths(self) -> Int[np.ndarray, " rows"]:
        return of(self.rows)[self.order]

    def lengths(self) -> Int[np.ndarray, " rows"]:
        """Return the tokens of each row."""
        return self._lengths

    filling = permuted


@dataclasses.dataclass(frozen=True, eq=False)
class Similar:
    """Rows in shuffled order, of which those of a window share batches with rows of similar length.

    A window is the slots of `window` batches of one epoch. Its rows are sorted by length, cut into batches, and the
    batches are shuffled; in each epoch, every row appears once.

    Attributes:
      rows: the plan that orders the rows.
      window: batches of a window.
      batch: rows of the global batch.
    """

    rows: Rows
    window: int
    batch: int

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int, epoch: int, rng: np.random.Generator) -> Row:
        """Return row `index` of an epoch."""
        return self.rows.row(index, epoch, rng)

    def lengths(self) -> Int[np.ndarray, " rows"]:
        """Return the tokens of each row."""
        return of(self.rows)

    def filling(self, slots: Int[np.ndarray, " slots"], seed: int) -> list[Filled]:
        """Return the row of each slot."""
        filled = []
        for slot in slots.tolist():
            start, stop = self._bounds(slot)
            filled.append(self._sorted(start, stop, seed)[slot - start])
        return filled

    def _bounds(self, slot: int) -> tuple[int, int]:
        """The first slot of the window of a slot, and the slot after its last."""
        count, size = len(self.rows), self.window * self.batch
        epoch, number = slot // count, slot // size
        return max(epoch * count, number * size), min((epoch + 1) * count, (number + 1) * size)

    @functools.cached_property
    def _sorted(self) -> Any:
        return functools.lru_cache(_KEPT)(self._sort)

    def _sort(self, start: int, stop: int, seed: int) -> list[Filled]:
        """The rows of a window, slot by slot."""
        filled = self.rows.filling(np.arange(start, stop), seed)
        by_length = np.argsort(of_filled(filled), kind="stable")
        # The first and the last batch may have slots in two epochs, so that fewer of its slots are in this window.
        borders = [start, *range((start // self.batch + 1) * self.batch, stop, self.batch), stop]
        sizes = np.diff(borders)
        ranks = order.permute(np.arange(len(sizes)), len(sizes), order.key(seed, start, 3))
        first = np.zeros(len(sizes), np.int64)
        by_rank = np.argsort(ranks)
        first[by_rank] = np.cumsum([0, *sizes[by_rank]])[:-1]
        places = np.concatenate([np.arange(size) + begin for size, begin in zip(sizes, first, strict=True)])
        return [filled[index] for index in by_length[places].tolist()]
