"""Windows over texts that are too long for a row, as in question answering (Devlin et al. 2019, released code)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows:
    """A text column whose long entries take several rows, each a window that overlaps with the one before.

    Attributes:
      column: the text column.
      beside: the text columns that each of these rows holds too, up to their maximum in `Reads.columns`.
      room: tokens of a row for the window and the texts beside it.
      overlap: tokens that a window shares with the one before.
      words: the column of the words of the text, tagged or not, which windows do not divide; they then share at least
        `overlap` tokens. Empty: windows begin and end at any token.
    """

    column: str
    beside: tuple[str, ...] = ()
    room: int
    overlap: int
    words: str = ""


class Division(NamedTuple):
    """Windows of several texts, in order.

    Attributes:
      texts: the index of the text of each window.
      starts, stops: the first token of each window, and the one after its last.
    """

    texts: Int[np.ndarray, " rows"]
    starts: Int[np.ndarray, " rows"]
    stops: Int[np.ndarray, " rows"]


def divide(sizes: Int[np.ndarray, " records"], room: Int[np.ndarray, " records"], overlap: int) -> Division:
    """Divide texts into windows; the last window of a text may be short, and adds at least one token to those before.

    Args:
      sizes: tokens of each text.
      room: tokens of a window of each text.
      overlap: tokens that a window shares with the one before.

    Raises:
      InputError: a window is not longer than the overlap.

    Example:
      >>> texts, starts, stops = divide(np.array([9, 3, 10]), np.array([5, 5, 6]), 2)
      >>> texts.tolist(), starts.tolist(), stops.tolist()
      ([0, 0, 0, 1, 2, 2], [0, 3, 6, 0, 0, 4], [5, 8, 9, 3, 6, 10])
    """
    strides = room - overlap
    if (strides < 1).any():
        raise InputError(
            f"config.data.length leaves {room.min()} tokens of a row for a window of the text, but neighbouring "
            f"windows share {overlap}; increase it, or lower the overlap"
        )
    counts = 1 + np.maximum(0, -(-(sizes - room) // strides))
    texts = np.repeat(np.arange(len(sizes)), counts)
    starts = (np.arange(len(texts)) - (np.cumsum(counts) - counts)[texts]) * strides[texts]
    return Division(texts, starts, np.minimum(starts + room[texts], sizes[texts]))


def divide_words(
    sizes: Int[np.ndarray, " records"],
    room: Int[np.ndarray, " records"],
    overlap: int,
    words: Callable[[int], Int[np.ndarray, "words 2"]],
) -> Division:
    """Divide texts into windows of whole words; a word that is longer than a row is cut.

    Args:
      sizes: tokens of each text.
      room: tokens of a window of each text.
      overlap: tokens that a window shares at least with the one before, if more than a word fits beside them.
      words: of the index of a text, the first token of each word and the one after its last.

    Example:
      >>> words = np.array([[0, 2], [2, 3], [3, 6], [6, 8], [8, 9]])
      >>> texts, starts, stops = divide_words(np.array([9, 3]), np.array([7, 7]), 2, lambda text: words)
      >>> texts.tolist(), starts.tolist(), stops.tolist()
      ([0, 0, 1], [0, 3, 0], [6, 9, 3])
    """
    spans = [
        (text, *span)
        for text, (size, most) in enumerate(zip(sizes.tolist(), room.tolist(), strict=True))
        for span in (_of_words(words(text), size, most, overlap) if size > most else [(0, size)])
    ]
    return Division(*np.array(spans, np.int64).reshape(-1, 3).T)


def _of_words(words: Int[np.ndarray, "words 2"], size: int, room: int, overlap: int) -> list[tuple[int, int]]:
    begins, ends = words[words[:, 0] < words[:, 1]].T
    spans, start = [], 0
    while start + room < size:
        whole = ends[(ends > start) & (ends <= start + room)]
        stop = int(whole.max(initial=0)) or start + room
        if not spans or stop > spans[-1][1]:
            spans.append((start, stop))
        later = begins[begins > start]
        if not len(later):
            return spans
        shared = later[later <= stop - overlap]
        start = int(shared.max() if len(shared) else later.min())
    return [*spans, (start, size)]


def shares(division: Division) -> Int[np.ndarray, "rows 2"]:
    """Return the tokens of which each window has the most context: of an overlap, each window gets the nearer half.

    Returns:
      The first token and the one after the last; each token of a text belongs to one window.

    Example:
      >>> shares(divide(np.array([9, 3]), np.array([5, 5]), 2)).tolist()
      [[0, 4], [4, 7], [7, 9], [0, 3]]
    """
    texts, starts, stops = division
    middles, follows = (starts[1:] + stops[:-1] + 1) // 2, texts[1:] == texts[:-1]
    first, last = starts.copy(), stops.copy()
    # Between windows that do not meet, tokens belong to none.
    first[1:] = np.where(follows, np.maximum(middles, starts[1:]), starts[1:])
    last[:-1] = np.where(follows, np.minimum(middles, stops[:-1]), stops[:-1])
    return np.stack([first, last], 1)
