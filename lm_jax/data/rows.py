"""Row plans: which tokens a row holds, and which row fills a slot. Plans hold positions; rows are read on demand.

`packed` cuts the sequence of all tokens into windows; `streams` continues every row of a batch in the next batch (Dai
et al. 2019, arXiv:1901.02860, section 3.2); `examples` makes one row per document, `columns` one per record. Training
reads the first part of the corpus, validation the rest: they share no token. `plans` lists all plans; `pairs` and
`passages` have those of sentences.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError, setting
from lm_jax.data import columns
from lm_jax.data.columns import Columns
from lm_jax.data.order import key, permute_one
from lm_jax.data.store import Store
from lm_jax.data.windows import Windows

Row = dict[str, np.ndarray | np.generic]
# Tokens of the entries of text columns, by column.
Sizes = Mapping[str, Int[np.ndarray, " rows"]]
# The row that fills a slot: the plan and its seed, the epoch, and the index of the row.
Filled = tuple[Any, int, int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowsConfig:
    """How the corpus is cut into rows.

    Attributes:
      plan: the row plan, a key of `plans.PLANS`; "auto": that of the objective. "packed": windows of equal length over
        one stream of tokens; "streams": each row of a batch continues in the next batch; "sentences": as many whole
        sentences as fit, across documents; "document_sentences": within a document; "pairs": two segments of sentences,
        the second perhaps of another document; "consecutive": always of the same; "examples": one document a row;
        "columns": one record a row.
      shift: start packed and streamed training rows at another offset in every epoch, so that no token is always first.
      short: share of pairs whose maximum length is drawn at random.
      random: share of pairs whose second segment is from another document.
      window: batches whose rows are sorted by length and cut into batches, which are shuffled, so that a batch needs
        little padding (with `config.data.buckets`); for `columns`; 0: rows of a batch are drawn from all.
    """

    plan: str = "auto"
    shift: bool = True
    short: float = setting(0.1, at_least=0, at_most=1)
    random: float = setting(0.5, at_least=0, at_most=1)
    window: int = setting(0, at_least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reads:
    """What an objective reads from a row.

    Attributes:
      plan: the row plan, a key of `plans.PLANS`; unused if there are `parts`.
      length: maximum tokens of a row.
      overlap: tokens that a packed row shares with the row before; 1 if the first token of a row is only context.
      columns: maximum tokens by text column, and 0 for other columns; empty if the objective reads one text.
      windows: the column whose long texts take several rows; None: they are cut.
      shift: whether windows may start elsewhere in every epoch; False if a row must be the same in every epoch.
      versions: versions of every row: epoch e repeats epoch e mod `versions`, with its random choices; 0: no epoch
        repeats another.
      borders: whether packed rows also have `sentences`, the indices of tokens that begin a sentence.
      parts: for a mixture of objectives, what each reads, by name; a row then has the name of its part, `part`.
      share: of a part: its share of the rows, relative to the sum of all shares.
      lengths: the length of each row, or an upper bound, from the tokens of each of its text columns, at most those of
        `columns`; None: unknown.
    """

    plan: str
    length: int
    overlap: int = 0
    columns: Mapping[str, int] = dataclasses.field(default_factory=dict)
    windows: Windows | None = None
    shift: bool = True
    versions: int = 0
    borders: bool = False
    parts: Mapping[str, Reads] = dataclasses.field(default_factory=dict)
    share: float = 1.0
    lengths: Callable[[Sizes], Int[np.ndarray, " rows"]] | None = dataclasses.field(default=None, compare=False)


@runtime_checkable
class Rows(Protocol):
    """Rows by index."""

    def __len__(self) -> int:
        """Number of rows in an epoch."""
        ...

    def row(self, index: int, epoch: int, rng: np.random.Generator) -> Row:
        """Return row `index` of an epoch (both from 0), a function of the arguments; `rng` makes random choices."""
        ...

    def filling(self, slots: Int[np.ndarray, " slots"], seed: int) -> list[Filled]:
        """Return the row that fills each slot of a run; slot = step x batch + place in the global batch."""
        ...


def permuted(rows: Rows, slots: Int[np.ndarray, " slots"], seed: int) -> list[Filled]:
    """`Rows.filling` in shuffled order: each epoch has its own keyed permutation."""
    count, filled = len(rows), []
    for slot in slots.tolist():
        epoch, position = divmod(slot, count)
        filled.append((rows, seed, epoch, permute_one(position, count, key(seed, epoch))))
    return filled


@dataclasses.dataclass(frozen=True)
class Repeated:
    """Rows with a fixed number of versions: epoch e repeats the rows and the random choices of e mod `versions`."""

    rows: Rows
    versions: int

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int, epoch: int, rng: np.random.Generator) -> Row:
        """Return the row of one version."""
        return self.rows.row(index, epoch % self.versions, rng)

    def filling(self, slots: Int[np.ndarray, " slots"], seed: int) -> list[Filled]:
        """Return the row of each slot in the order of `rows`; the epoch is the version, which keys the generator."""
        filled = self.rows.filling(slots, seed)
        return [(plan, row_seed, epoch % self.versions, index) for plan, row_seed, epoch, index in filled]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A request for the rows of one split of a corpus.

    Attributes:
      tokens: the corpus.
      config: settings; the plan "auto" is that of `reads`.
      split: "train" or "validation".
      reads: what the objective reads from a row.
      validation: share of tokens (of columns: of records) held out from training, at the end; above 1, their number.
      seed: of the shifts of windows.
      lanes: rows of the global batch, and so the number of lanes of `streams`.
    """

    tokens: Store | Columns
    config: RowsConfig
    split: str
    reads: Reads
    validation: float
    seed: int = 0
    lanes: int = 1

    @property
    def plan(self) -> str:
        """The name of the row plan."""
        return self.reads.plan if self.config.plan == "auto" else self.config.plan

    def line(self) -> tuple[Store, int, int]:
        """Return the store, and start and stop of the split's tokens."""
        if isinstance(self.tokens, Columns):
            names = ", ".join(self.tokens.config)
            raise InputError(
                f"config.data.rows.plan is {self.plan}, which reads one text, but {columns.KEY} are set ({names}); "
                "leave them out, or train an objective that reads columns"
            )
        return self.tokens, *span(self.tokens.tokens, self.split, self.validation)


def span(count: int, split: str, validation: float) -> tuple[int, int]:
    """Return start and stop of a split in a corpus of `count` tokens or records."""
    if not 0 <= validation <= max(1, count) or (validation > 1 and validation != int(validation)):
        raise InputError(
            f"config.data.validation is {validation:g}; expected a share from 0 to 1, or a whole number up to the "
            f"{count:,} tokens or records of the corpus"
        )
    border = int(count * (1 - validation) if validation <= 1 else count - validation)
    return {"train": (0, border), "validation": (border, count)}[split]


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
    borders: bool = False

    def __len__(self) -> int:
        return self.count

    def row(self, index: int, epoch: int, rng: np.random.Generator) -> Row:
        """Return the tokens of one window, and with `borders` the starts of its sentences."""
        shift = key(self.seed, epoch, 1) % self.shifts
        start = self.start + shift + index * self.stride
        stop = min(start + self.length, self.stop)
        return window(self.store, start, stop, self.borders)

    filling = permuted


def window(store: Store, start: int, stop: int, borders: bool) -> Row:
    """Return the tokens start..stop-1, and with `borders` the indices in the row of those that begin a sentence."""
    row: Row = {"tokens": store.read(start, stop)}
    if borders:
        starts = store.sentence_starts
        row["sentences"] = np.asarray(starts[slice(*np.searchsorted(starts, [start, stop]))] - start, np.int32)
    return row


def packed(request: Request) -> Packed:
    """Build the plan `packed`."""
    store, start, stop = request.line()
    length, overlap = request.reads.length, request.reads.overlap
    stride, available = length - overlap, stop - start
    shifts = 1
    if request.split == "validation":
        # The last row may be short, so that every token is read.
        count = max(0, -(-(available - overlap) // stride))
    else:
        count = (available - length) // stride + 1 if available >= length else 0
        if request.config.shift and request.reads.shift and count:
            # As many rows as fit at the largest shift (at least one), so that all epochs have the same number of rows.
            count = max(1, (available - length - stride + 1) // stride + 1)
            shifts = min(stride, available - length - (count - 1) * stride + 1)
        if not count:
            raise InputError(
                f"config.data.length: a row takes {length} tokens, but the training split has {available}; shorten "
                "config.data.length, lower config.data.validation or add text"
            )
    return Packed(store, start, stop, length, stride, count, shifts, request.seed, request.reads.borders)


@dataclasses.dataclass(frozen=True)
class Streams:
    """Windows in lanes: row b of a batch continues row b of the batch before.

    Lane b reads consecutive windows, one per step. Row step x lanes + b belongs to lane b, so that reading by index, as
    in evaluation, follows the lanes too. If the windows do not divide evenly among the lanes, training drops the last
    ones, so that all lanes end an epoch together; in validation, the first lanes are one window longer.
    """

    windows: Packed
    lanes: int
    count: int

    def __len__(self) -> int:
        return self.count

    def row(self, index: int, epoch: int, rng: np.random.Generator) -> Row:
        """Return the tokens of one window, and whether it is the first of its lane (`begins`)."""
        step, lane = divmod(index, self.lanes)
        shortest, longer = divmod(self.count, self.lanes)
        row = self.windows.row(lane * shortest + min(lane, longer) + step, epoch, rng)
        return {**row, "begins": np.bool_(step == 0)}

    def filling(self, slots: Int[np.ndarray, " slots"], seed: int) -> list[Filled]:
        """Return the row of each slot: rows in order, epoch after epoch."""
        epochs, indices = np.divmod(slots, len(self))
        return [(self, seed, *each) for each in zip(epochs.tolist(), indices.tolist(), strict=True)]


def streams(request: Request) -> Streams:
    """Build the plan `streams`."""
    windows, lanes = packed(request), request.lanes
    count = len(windows)
    if request.split == "train":
        count -= count % lanes
        if not count:
            raise InputError(
                f"config.data.batch is {lanes}, but the training split has {len(windows)} rows, and the plan streams "
                "needs a row for each place of a batch; lower config.data.batch or config.data.length, or add text"
            )
    return Streams(windows, lanes, count)


@dataclasses.dataclass(frozen=True)
class Examples:
    """Documents, truncated to `length` tokens; the [EOS] of a longer document is cut too."""

    store: Store
    starts: Int[np.ndarray, " documents"]
    stops: Int[np.ndarray, " documents"]
    length: int

    def __len__(self) -> int:
        return len(self.starts)

    def row(self, index: int, epoch: int, rng: np.random.Generator) -> Row:
        """Return the tokens of one document."""
        start = int(self.starts[index])
        return {"tokens": self.store.read(start, min(start + self.length, int(self.stops[index])))}

    filling = permuted


def documents(store: Store, split: str, start: int, stop: int) -> slice:
    """Return the slice of the documents that start in start..stop-1."""
    first, last = np.searchsorted(store.document_starts, [start, stop])
    if split == "train" and first == last:
        raise InputError(
            "config.data.validation leaves no document to train on; lower it or divide the text into more "
            "documents with config.data.document"
        )
    return slice(int(first), int(last))


def examples(request: Request) -> Examples:
    """Build the plan `examples`."""
    store, start, stop = request.line()
    chosen = documents(store, request.split, start, stop)
    return Examples(store, store.document_starts[chosen], store.document_stops()[chosen], request.reads.length)
