"""The table of row plans: one function for each, in `rows`, `tables`, `pairs` and `passages`."""

from __future__ import annotations

from collections.abc import Callable

from lm_jax.core.config import InputError, lookup
from lm_jax.data import lengths, mixture, pairs, passages, rows, tables
from lm_jax.data.rows import Request, Rows
from lm_jax.data.several import naming

PLANS: dict[str, Callable[[Request], Rows]] = {
    "packed": rows.packed,
    "streams": rows.streams,
    "sentences": passages.sentences,
    "document_sentences": passages.document_sentences,
    "pairs": pairs.pairs,
    "consecutive": pairs.consecutive,
    "examples": rows.examples,
    "columns": tables.of_columns,
}


def make(request: Request) -> Rows:
    """Build the row plan of a request.

    Raises:
      InputError: the split is too small for a row, or the plan does not read this kind of corpus.
    """
    if request.reads.parts:
        return mixture.of_objectives(request, make)
    length, overlap, window = request.reads.length, request.reads.overlap, request.config.window
    if length < 1 or not 0 <= overlap < length:
        raise InputError(f"config.data.length gives rows of {length} tokens that overlap by {overlap}; increase it")
    plan = lookup(PLANS, request.plan, "config.data.rows.plan")(request)
    if window and request.split == "train":
        naming("config.data.rows.window", lengths.of)(plan)
        plan = lengths.Similar(plan, window, request.lanes)
    return rows.Repeated(plan, request.reads.versions) if request.reads.versions else plan
