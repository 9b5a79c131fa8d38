"""Row plans of whole sentences: RoBERTa's FULL-SENTENCES and DOC-SENTENCES (Liu et al. 2019, arXiv:1907.11692, 4.2).

`sentences` continues a row in the next document, after the [EOS] that ends this one; `document_sentences` does not.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError
from lm_jax.data import rows
from lm_jax.data.rows import Request, Row
from lm_jax.data.store import Store

# Sentences per block: the arrays of a block take a few tens of megabytes.
BLOCK = 1 << 18


@dataclasses.dataclass(frozen=True)
class Passages:
    """Rows of consecutive sentences: row i holds the tokens starts[i]..starts[i + 1] - 1, and `overlap` before them."""

    store: Store
    starts: Int[np.ndarray, " rows_and_one"]
    overlap: int
    borders: bool

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row(self, index: int, epoch: int, rng: np.random.Generator) -> Row:
        """Return the tokens of one row, and with `borders` the starts of its sentences."""
        start = max(int(self.starts[index]) - self.overlap, int(self.starts[0]))
        return rows.window(self.store, start, int(self.starts[index + 1]), self.borders)

    filling = rows.permuted


def sentences(request: Request) -> Passages:
    """Build the plan `sentences`."""
    return _passages(request, apart=False)


def document_sentences(request: Request) -> Passages:
    """Build the plan `document_sentences`."""
    if request.reads.overlap:
        raise InputError(
            f"config.data.rows.plan is {request.plan}, whose rows share no token, but the objective needs rows that "
            "overlap; set config.data.rows.plan=sentences or auto"
        )
    return _passages(request, apart=True)


def _passages(request: Request, apart: bool) -> Passages:
    store, *span = request.line()
    # A sentence belongs to the split of its first token.
    numbers = np.searchsorted(store.sentence_starts, span).tolist()
    begin, end = (int([*store.sentence_starts[number : number + 1], store.tokens][0]) for number in numbers)
    if request.split == "train" and begin == end:
        raise InputError("config.data.validation leaves no sentence to train on; lower it or add text")
    overlap = request.reads.overlap
    documents = store.document_starts if apart else None
    starts = divide(store.sentence_starts, begin, end, request.reads.length - overlap, documents)
    return Passages(store, starts, overlap, request.reads.borders)


def divide(
    sentences: Int[np.ndarray, " sentences"],
    begin: int,
    end: int,
    room: int,
    documents: Int[np.ndarray, " documents"] | None = None,
) -> Int[np.ndarray, " rows_and_one"]:
    """Divide the tokens begin..end-1 into rows of as many sentences as fit; a sentence longer than a row is cut.

    Args:
      sentences: the first token of every sentence.
      begin: the first token of a sentence.
      end: the first token of a sentence, or the end of the text.
      room: maximum tokens of a row.
      documents: the first token of every document; a row ends where a document does. None: rows cross documents.

    Returns:
      The first token of every row, and `end`.

    Example:
      >>> divide(np.array([0, 4, 7, 9, 21]), 0, 25, 10).tolist()
      [0, 9, 19, 25]
    """
    # More sentences than fit a row, so that every block completes one.
    block = max(BLOCK, room + 1)
    parts, start = [np.zeros(0, np.int64)], begin
    while start < end:
        first = int(np.searchsorted(sentences, start, "right"))
        opens = np.asarray(sentences[first : first + block])
        last = len(opens) < block or int(opens[-1]) >= end
        bound = end if last else int(opens[-1])
        borders = _cut(np.concatenate([[start], opens[opens < bound]]), bound, room)
        following = np.searchsorted(borders, borders[:-1] + room, "right") - 1
        if documents is not None:
            following = np.minimum(following, np.searchsorted(borders, _next(documents, borders[:-1], end)))
        chosen = _follow(following.tolist())
        # Only the next block tells how far the last row reaches.
        start = end if last else int(borders[chosen.pop()])
        parts.append(borders[chosen])
    return np.concatenate([*parts, [end]])


def _cut(opens: Int[np.ndarray, " sentences"], end: int, room: int) -> Int[np.ndarray, " pieces_and_one"]:
    """Return the starts of sentences and of the pieces of long ones, each at most `room` tokens, and `end`."""
    counts = -(-np.diff(opens, append=end) // room)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.append(np.repeat(opens, counts) + room * within, end)


def _next(
    documents: Int[np.ndarray, " documents"], positions: Int[np.ndarray, " n"], end: int
) -> Int[np.ndarray, " n"]:
    """Return the first document start after each of the ascending positions, or `end` if there is none."""
    first, last = np.searchsorted(documents, positions[[0, -1]], "right")
    starts = np.append(documents[first : last + 1], end)
    return starts[np.searchsorted(starts, positions, "right")]


def _follow(following: list[int]) -> list[int]:
    """Return 0, following[0], following[following[0]], ... below len(following)."""
    chosen, index = [], 0
    while index < len(following):
        chosen.append(index)
        index = following[index]
    return chosen
