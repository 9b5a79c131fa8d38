"""Row plans: which tokens a row holds. A plan is a small index over a token store; rows are read when asked for.

`packed` cuts the line of tokens into windows, `pairs` makes BERT's two segments (Devlin et al. 2019,
arXiv:1810.04805, A.2), `examples` gives each document a row. Training takes the first part of the corpus,
validation the rest: the two share no token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError, lookup, setting
from lm_jax.data.order import key
from lm_jax.data.store import Store

Row = dict[str, np.ndarray | np.generic]
SPLITS = ("train", "validation")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowsConfig:
    """How the corpus is cut into rows.

    Attributes:
      plan: "packed", "pairs" or "examples"; "auto" is what the objective reads.
      shift: packed training rows start elsewhere in every epoch, so that no token is always a row's first.
      short: the share of pairs that is shorter than it could be.
      random: the share of pairs whose second segment is from another document.
    """

    plan: str = "auto"
    shift: bool = True
    short: float = setting(0.1, at_least=0, at_most=1)
    random: float = setting(0.5, at_least=0, at_most=1)


@runtime_checkable
class Rows(Protocol):
    """Rows by number."""

    def __len__(self) -> int:
        """Rows of an epoch."""
        ...

    def row(self, index: int, epoch: int, rng: np.random.Generator) -> Row:
        """One row; equal arguments give equal rows.

        Args:
          index: below len.
          epoch: counted from 0.
          rng: the row's own generator, for what the plan leaves to chance.
        """
        ...


def make(
    store: Store,
    config: RowsConfig,
    split: str,
    *,
    length: int,
    validation: float,
    overlap: int = 0,
    seed: int = 0,
) -> Rows:
    """The rows of one part of a store.

    Args:
      store: the tokens.
      config: the plan.
      split: "train" or "validation".
      length: most tokens in a row.
      validation: the share of tokens kept from training, at the end.
      overlap: tokens that a packed row shares with the one before; 1 where a row's first token is only context.
      seed: chooses the shifts.

    Raises:
      InputError: the part has no row to give.
    """
    if length < 1 or not 0 <= overlap < length:
        raise InputError(f"config.data.length gives rows of {length} tokens that overlap by {overlap}; ask for more")
    start, stop = span(store, split, validation)
    return lookup(PLANS, config.plan, "config.data.rows.plan")(store, config, split, start, stop, length, overlap, seed)


def span(store: Store, split: str, validation: float) -> tuple[int, int]:
    """The tokens start..stop-1 of a part of the store."""
    if not 0 <= validation <= 1:
        raise InputError(f"config.data.validation is {validation}; expected a share from 0 to 1")
    cut = int(store.tokens * (1 - validation))
    return {"train": (0, cut), "validation": (cut, store.tokens)}[split]


@dataclasses.dataclass(frozen=True)
class Packed:
    """Windows over tokens start..stop-1, `stride` apart."""

    store: Store
    start: int
    stop: int
    length: int
    stride: int
    count: int
    shifts: int
    seed: int

    def __len__(self) -> int:
        return self.count

    def row(self, index: int, epoch: int, rng: np.random.Generator) -> Row:
        """Tokens of one window."""
        shift = key(self.seed, epoch, 1) % self.shifts
        start = self.start + shift + index * self.stride
        return {"tokens": self.store.read(start, min(start + self.length, self.stop))}


def _packed(
    store: Store, config: RowsConfig, split: str, start: int, stop: int, length: int, overlap: int, seed: int
) -> Packed:
    stride, available = length - overlap, stop - start
    shifts = 1
    if split == "validation":
        # Every token once: the last row is short.
        count = max(0, -(-(available - overlap) // stride))
    else:
        count = (available - length) // stride + 1 if available >= length else 0
        if config.shift and count:
            # A row less where the farthest shift would need it, so that every epoch has as many rows.
            count = max(1, (available - length - stride + 1) // stride + 1)
            shifts = min(stride, available - length - (count - 1) * stride + 1)
        if not count:
            raise InputError(
                f"config.data.length: a row takes {length} tokens, but the training part has {available}; shorten "
                "config.data.length, lower config.data.validation or add text"
            )
    return Packed(store, start, stop, length, stride, count, shifts, seed)


@dataclasses.dataclass(frozen=True)
class Examples:
    """Documents, cut at `length` tokens; [EOS] is kept where there is room."""

    store: Store
    starts: Int[np.ndarray, " documents"]
    stops: Int[np.ndarray, " documents"]
    length: int

    def __len__(self) -> int:
        return len(self.starts)

    def row(self, index: int, epoch: int, rng: np.random.Generator) -> Row:
        """Tokens of one document."""
        start = int(self.starts[index])
        return {"tokens": self.store.read(start, min(start + self.length, int(self.stops[index])))}


def _documents(store: Store, split: str, start: int, stop: int) -> slice:
    """The documents that start in start..stop-1."""
    first, last = np.searchsorted(store.document_starts, [start, stop])
    if split == "train" and first == last:
        raise InputError(
            "config.data.validation leaves no document to train on; lower it or cut the text finer with "
            "config.data.document"
        )
    return slice(int(first), int(last))


def _examples(
    store: Store, config: RowsConfig, split: str, start: int, stop: int, length: int, overlap: int, seed: int
) -> Examples:
    chosen = _documents(store, split, start, stop)
    return Examples(store, store.document_starts[chosen], store.document_stops()[chosen], length)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Two segments a row: a chunk of sentences cut in two, or its first part and a stranger.

    Chunks are runs of sentences of one document, together at most `length` tokens. `segments` are the positions at
    which sentences start and, last, where the final one ends; chunk i is made of the segments
    chunks[i]..chunks[i + 1] - 1; `documents` is each chunk's document.
    """

    store: Store
    config: RowsConfig
    starts: Int[np.ndarray, " segments"]
    stops: Int[np.ndarray, " segments"]
    chunks: Int[np.ndarray, " chunks_and_one"]
    documents: Int[np.ndarray, " chunks"]
    length: int

    def __len__(self) -> int:
        return len(self.documents)

    def row(self, index: int, epoch: int, rng: np.random.Generator) -> Row:
        """The segments `first` and `second`, and whether the second followed the first (`is_next`)."""
        first, last = int(self.chunks[index]), int(self.chunks[index + 1])
        room = self.length
        if rng.random() < self.config.short:
            room = int(rng.integers(2, self.length + 1))
        # A single sentence has no second half to follow it.
        is_next = bool(rng.random() >= self.config.random) and last - first > 1
        middle = first + 1 if last - first == 1 else int(rng.integers(first + 1, last))
        head = self._read(first, middle)
        tail = self._read(middle, last) if is_next else self._stranger(index, rng, max(1, room - len(head)))
        head, tail = _truncated(head, tail, room, rng)
        return {"first": head, "second": tail, "is_next": np.array(is_next, np.int32)}

    def _read(self, first: int, last: int) -> Int[np.ndarray, " tokens"]:
        return self.store.read(int(self.starts[first]), int(self.stops[last - 1]))

    def _stranger(self, index: int, rng: np.random.Generator, room: int) -> Int[np.ndarray, " tokens"]:
        """Sentences of another document, from a random one of them on, until there is no room."""
        own = np.searchsorted(self.documents, [self.documents[index], self.documents[index] + 1])
        other = int(rng.integers(len(self.documents) - (own[1] - own[0])))
        other += int(own[1] - own[0]) if other >= own[0] else 0
        first, last = int(self.chunks[other]), int(self.chunks[other + 1])
        begin = int(rng.integers(first, last))
        return self._read(begin, last)[:room]


def _truncated(
    first: np.ndarray, second: np.ndarray, room: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Two segments of at most `room` tokens together; the longer one loses, at a random end, token by token."""
    excess = max(0, len(first) + len(second) - room)
    lengths = [len(first), len(second)]
    longer, shorter = (0, 1) if lengths[0] > lengths[1] else (1, 0)
    levelled = min(excess, lengths[longer] - lengths[shorter])
    losses = [0, 0]
    losses[longer] = levelled + (excess - levelled) // 2
    losses[shorter] = (excess - levelled) - (excess - levelled) // 2
    fronts = [int(rng.binomial(loss, 0.5)) for loss in losses]
    return (
        first[fronts[0] : lengths[0] - losses[0] + fronts[0]],
        second[fronts[1] : lengths[1] - losses[1] + fronts[1]],
    )


def _pairs(
    store: Store, config: RowsConfig, split: str, start: int, stop: int, length: int, overlap: int, seed: int
) -> Pairs:
    if length < 2:
        raise InputError(f"config.data.length leaves {length} tokens for a pair; expected at least 2")
    chosen = _documents(store, split, start, stop)
    document_starts = np.asarray(store.document_starts[chosen])
    # Without the [EOS] that closes a document, and without empty documents.
    document_stops = store.document_stops()[chosen] - 1
    numbers = np.flatnonzero(document_stops > document_starts)
    if len(numbers) == 1 or (split == "train" and not len(numbers)):
        raise InputError(
            f"config.data.rows.plan is pairs, but the {split} part has {len(numbers)} documents and a pair may need "
            "two; set config.data.document=paragraph, change config.data.validation, add text, or do without pairs: "
            "config.objective.masked.next_sentence=false"
        )
    starts: list[np.ndarray] = []
    stops: list[np.ndarray] = []
    chunks, documents, total = [0], [], 0
    for number in numbers:
        begin, end = int(document_starts[number]), int(document_stops[number])
        segments = _segments(store, begin, end, max(1, length // 2))
        ends = np.append(segments[1:], end)
        starts.append(segments)
        stops.append(ends)
        position = 0
        while position < len(segments):
            # As many sentences as fit: the first whose end lies beyond the room opens the next chunk.
            position = int(np.searchsorted(ends, segments[position] + length, "right"))
            chunks.append(total + position)
            documents.append(number)
        total += len(segments)
    none = np.zeros(0, np.int64)
    return Pairs(
        store,
        config,
        np.concatenate([*starts, none]),
        np.concatenate([*stops, none]),
        np.array(chunks, np.int64),
        np.array(documents, np.int64),
        length,
    )


def _segments(store: Store, start: int, stop: int, longest: int) -> Int[np.ndarray, " segments"]:
    """Where the sentences of a document start; longer ones than `longest` are cut, so that two fit a row."""
    first, last = np.searchsorted(store.sentence_starts, [start, stop])
    bounds = np.unique(np.concatenate([[start], store.sentence_starts[first:last], [stop]]))
    pieces = [np.arange(begin, end, longest) for begin, end in zip(bounds[:-1], bounds[1:], strict=True)]
    return np.concatenate(pieces).astype(np.int64)


PLANS: dict[str, Callable[..., Rows]] = {"packed": _packed, "pairs": _pairs, "examples": _examples}
