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
from lm_jax.data.windows import Windows


@dataclasses.dataclass(frozen=True)
class Records:
    """Records of columns: one row each, or one for each window of a text.

    Attributes:
      columns: the corpus.
      numbers: the record of each row; the rows of one record are neighbours, in the order of their windows.
      most: maximum tokens by column, for spans those of their text; spans of a text in windows are all read.
      windows: the column that is read in windows, if any.
      starts: the first token of each row's window; 0 without windows.
      measure: `Reads.lengths`.
    """

    columns: Columns
    numbers: Int[np.ndarray, " rows"]
    most: Mapping[str, int]
    windows: Windows | None
    starts: Int[np.ndarray, " rows"]
    measure: Callable[[Sizes], Int[np.ndarray, " rows"]] | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def row(self, index: int, epoch: int, rng: np.random.Generator) -> Row:
        """Return the entries of one record by column, and with windows the first token that is read (`window`)."""
        record, cut = int(self.numbers[index]), self.windows
        whole = {name: most for name, most in self.most.items() if cut is None or name != cut.column}
        row: Row = {name: self.columns.read(name, record, most) for name, most in whole.items()}
        if cut is not None:
            start, room = int(self.starts[index]), cut.room - sum(np.size(row[name]) for name in cut.beside)
            row |= {cut.column: self.columns.read(cut.column, record, room, start), "window": np.int32(start)}
        return row

    def entry(self, name: str, record: int) -> Any:
        """Return an entry of a record as a whole: all its tokens, its spans, a number or a label."""
        return self.columns.read(name, record, self.columns.tokens)

    def part(self, first: int, last: int) -> Records:
        """Return the rows first..last-1."""
        return dataclasses.replace(self, numbers=self.numbers[first:last], starts=self.starts[first:last])

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
            whole = self.columns.sizes(cut.column, self.numbers, self.columns.tokens)
            room = cut.room - sum(sizes[name] for name in cut.beside)
            sizes[cut.column] = np.minimum(whole - self.starts, room)
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
        return Records(corpus, numbers, most, None, np.zeros_like(numbers), request.reads.lengths)
    beside = np.zeros_like(numbers)
    for name in cut.beside:
        beside += corpus.sizes(name, numbers, reads[name])
    sizes = corpus.sizes(cut.column, numbers, corpus.tokens)
    texts, starts = windows.divide(sizes, cut.room - beside, cut.overlap)
    most |= {name: corpus.tokens for name in reads if corpus.config[name].of == cut.column}
    return Records(corpus, numbers[texts], most, cut, starts, request.reads.lengths)
