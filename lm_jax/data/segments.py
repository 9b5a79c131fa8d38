"""Segments of sentences: runs of them that fill a row, and how two are cut to fit (Devlin et al. 2019, A.2)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from lm_jax.data.store import Store


def chunks(
    store: Store, starts: Int[np.ndarray, " documents"], stops: Int[np.ndarray, " documents"], length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Runs of sentences of one document, together at most `length` tokens.

    Returns:
      The starts and stops of all segments, where among them each chunk starts (and the last one stops), and the number
      of each chunk's document.
    """
    # Empty arrays, because there may be no document.
    opens, closes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    borders, documents, total = [0], [], 0
    for number, (begin, end) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        segments = _segments(store, begin, end, max(1, length // 2))
        ends = np.append(segments[1:], end)
        opens.append(segments)
        closes.append(ends)
        position = 0
        while position < len(segments):
            # As many sentences as fit: the first whose end lies beyond the room opens the next chunk.
            position = int(np.searchsorted(ends, segments[position] + length, "right"))
            borders.append(total + position)
            documents.append(number)
        total += len(segments)
    return np.concatenate(opens), np.concatenate(closes), np.array(borders, np.int64), np.array(documents, np.int64)


def _segments(store: Store, start: int, stop: int, longest: int) -> Int[np.ndarray, " segments"]:
    """Where the sentences of a document start; longer ones than `longest` are cut, so that two fit a row."""
    first, last = np.searchsorted(store.sentence_starts, [start, stop])
    bounds = np.unique(np.concatenate([[start], store.sentence_starts[first:last], [stop]]))
    pieces = [np.arange(begin, end, longest) for begin, end in zip(bounds[:-1], bounds[1:], strict=True)]
    return np.concatenate(pieces).astype(np.int64)


def truncated(
    first: np.ndarray, second: np.ndarray, room: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Two segments of at most `room` tokens together; the longer one loses, at a random end, token by token."""
    excess = max(0, len(first) + len(second) - room)
    levelled = min(excess, abs(len(first) - len(second)))
    most = levelled + (excess - levelled) // 2
    losses = (most, excess - most) if len(first) > len(second) else (excess - most, most)
    fronts = [int(rng.binomial(loss, 0.5)) for loss in losses]
    return (
        first[fronts[0] : len(first) - losses[0] + fronts[0]],
        second[fronts[1] : len(second) - losses[1] + fronts[1]],
    )
