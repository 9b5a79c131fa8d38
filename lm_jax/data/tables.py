"""The row plan `columns`: rows of the records of a corpus of columns, one each or one for each window of a text."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError
from lm_jax.data import columns, windows
from lm_jax.data.columns import Columns
from lm_jax.data.rows import Request, Row, Sizes, permuted, span
from lm_jax.data.windows import Division, Windows


@dataclasses.dataclass(frozen=True)
class Records:
    """Records of columns: one row each, or one for each window of a text.

    Attributes:
      columns: the corpus.
      numbers: the record of each row; the rows of one record are neighbours, in the order of their windows.
      most: maximum tokens by column, for spans those of their text; spans of a text in windows are all read.
      windows: the column that is read in windows, if any.
      starts, stops: the first token of each row's window, and the one after its last; 0 without windows.
      measure: `Reads.lengths`.
    """

    columns: Columns
    numbers: Int[np.ndarray, " rows"]
    most: Mapping[str, int]
    windows: Windows | None
    starts: Int[np.ndarray, " rows"]
    stops: Int[np.ndarray, " rows"]
    measure: Callable[[Sizes], Int[np.ndarray, " rows"]] | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def row(self, index: int, epoch: int, rng: np.random.Generator) -> Row:
        """Return the entries of one record by column.

        With windows, also the first token that is read (`window`), and the `share` of the row.
        """
        record, cut = int(self.numbers[index]), self.windows
        whole = {name: most for name, most in self.most.items() if cut is None or name != cut.column}
        row: Row = {name: self.columns.read(name, record, most) for name, most in whole.items()}
        if cut is not None:
            start, size = int(self.starts[index]), int(self.stops[index] - self.starts[index])
            row[cut.column] = self.columns.read(cut.column, record, size, start)
            row |= {"window": np.int32(start), "share": self.shares[index].astype(np.int32)}
        return row

    def entry(self, name: str, record: int) -> Any:
        """Return an entry of a record as a whole: all its tokens, its spans, a number or a label."""
        return self.columns.read(name, record, self.columns.tokens)

    def part(self, first: int, last: int) -> Records:
        """Return the rows first..last-1, which are those of whole records."""
        rows = {name: getattr(self, name)[first:last] for name in ("numbers", "starts", "stops")}
        return dataclasses.replace(self, **rows)

    def first(self, rows: int) -> Records:
        """Return the rows of the first records: as many as have at most so many rows, but at least one record."""
        if rows >= len(self):
            return self
        border = np.searchsorted(self.numbers, self.numbers[rows])
        return self.part(0, int(border or np.searchsorted(self.numbers, self.numbers[0], "right")))

    @functools.cached_property
    def shares(self) -> Int[np.ndarray, "rows 2"]:
        """The tokens of which each row's window has the most context, first and one after the last."""
        return windows.shares(Division(self.numbers, self.starts, self.stops))

    @property
    def records(self) -> list[int]:
        """The records of the rows, each once, ascending."""
        return np.unique(self.numbers).tolist()

    def lengths(self) -> Int[np.ndarray, " rows"]:
        """Return the tokens of each row, or an upper bound; raise InputError if the objective does not say."""
        if self.measure is None:
            raise InputError("the objective does not say how long its rows are; leave it out, or choose another one")
        return self._lengths

    @functools.cached_property
    def _lengths(self) -> Int[np.ndarray, " rows"]:
        texts = {name: most for name, most in self.most.items() if name in self.columns.stores}
        sizes = {name: self.columns.sizes(name, self.numbers, most) for name, most in texts.items()}
        if (cut := self.windows) is not None:
            sizes[cut.column] = self.stops - self.starts
        return self.measure(sizes)  # type: ignore[misc]

    filling = permuted


def of_columns(request: Request) -> Records:
    """Build the plan `columns`."""
    corpus, reads = request.tokens, request.reads.columns
    if not isinstance(corpus, Columns) or not reads:
        names = ", ".join(reads) or "none"
        raise InputError(
            f"config.data.rows.plan is columns, and the objective reads {names}; define them in {columns.KEY}"
        )
    corpus.check(reads)
    start, stop = span(corpus.records, request.split, request.validation)
    numbers = corpus.rows[slice(*np.searchsorted(corpus.rows, [start, stop]))]
    if request.split == "train" and not len(numbers):
        raise InputError("config.data.validation leaves no record to train on that has all columns; lower it")
    most = {name: reads.get(corpus.config[name].of or name, corpus.tokens) for name in reads}
    cut = request.reads.windows
    if cut is None:
        zeros = np.zeros_like(numbers)
        return Records(corpus, numbers, most, None, zeros, zeros, request.reads.lengths)
    room = np.full_like(numbers, cut.room)
    for name in cut.beside:
        room -= corpus.sizes(name, numbers, reads[name])
    sizes = corpus.sizes(cut.column, numbers, corpus.tokens)
    if cut.words:
        words = lambda text: np.asarray(corpus.read(cut.words, int(numbers[text]), corpus.tokens))[:, :2]
        texts, starts, stops = windows.divide_words(sizes, room, cut.overlap, words)
    else:
        texts, starts, stops = windows.divide(sizes, room, cut.overlap)
    most |= {name: corpus.tokens for name in reads if corpus.config[name].of == cut.column}
    return Records(corpus, numbers[texts], most, cut, starts, stops, request.reads.lengths)
