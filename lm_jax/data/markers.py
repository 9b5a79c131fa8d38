"""Texts that must hold markers, such as those of entities (Baldini Soares et al. 2019, arXiv:1906.03158)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from lm_jax.core.config import InputError
from lm_jax.data import columns
from lm_jax.data.clean import report as reports
from lm_jax.data.columns import Columns
from lm_jax.data.several import naming

# Tokens that are read together.
_READ = 1 << 22


def require(corpus: Columns, column: str, markers: Sequence[str]) -> Columns:
    """Return a corpus without the records whose text lacks a marker, which are bad rows.

    Args:
      corpus: it is returned as it is if it has no such column of text, or its tokenizer no such piece.
      column: a text column.
      markers: pieces of the tokenizer.

    Raises:
      InputError: a text lacks a marker, and bad rows are not skipped.
    """
    pieces = corpus.tokenizer.pieces
    if column not in corpus.stores or not {*markers} <= {*pieces}:
        return corpus
    report, source = reports.empty(), corpus.originals[column].source
    holding = {marker: _holding(corpus, column, pieces.index(marker)) for marker in markers}
    complete = np.logical_and.reduce([*holding.values()])[corpus.rows]
    for record in corpus.rows[~complete].tolist():
        missing = next(marker for marker in markers if not holding[marker][record])
        problem = f"has no {missing!r}; expected {' and '.join(map(repr, markers))} in every text"
        naming(f"{columns.KEY}.{column}", columns.reject)(column, source, report, record, problem)
    if not complete.any() and len(complete):
        both = " and ".join(map(repr, markers))
        raise InputError(f"{columns.KEY}.{column}: no text of {source.path} has {both}, which every text needs")
    entries = reports.total([corpus.entries, report])
    return dataclasses.replace(corpus, rows=corpus.rows[complete], entries=entries)


def _holding(corpus: Columns, column: str, token: int) -> Bool[np.ndarray, " records"]:
    """Return the records whose text holds a token."""
    store, bounds, holding = corpus.stores[column], corpus.bounds[column], np.zeros(corpus.records, bool)
    for start in range(0, store.tokens, _READ):
        tokens = store.read(start, min(start + _READ, store.tokens))
        holding[np.searchsorted(bounds, np.flatnonzero(tokens == token) + start, "right") - 1] = True
    return holding
