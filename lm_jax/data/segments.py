"""BERT's segments: runs of sentences that fill a row, and the truncation of a pair (Devlin et al. 2019, A.2)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from lm_jax.data.store import Store


def chunks(
    store: Store, starts: Int[np.ndarray, " documents"], stops: Int[np.ndarray, " documents"], length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Group sentences into chunks: runs of sentences of one document, at most `length` tokens in total.

    Returns:
      Starts and stops of all sentences (pieces of long ones), the first sentence of each chunk followed by the total
      number of sentences, and the document of each chunk.
    """
    # An empty array for np.concatenate, because there may be no document.
    opens, closes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    borders, documents, total = [0], [], 0
    for number, (begin, end) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        segments = _segments(store, begin, end, max(1, length // 2))
        ends = np.append(segments[1:], end)
        opens.append(segments)
        closes.append(ends)
        position = 0
        while position < len(segments):
            # The first sentence that does not fit starts the next chunk.
            position = int(np.searchsorted(ends, segments[position] + length, "right"))
            borders.append(total + position)
            documents.append(number)
        total += len(segments)
    return np.concatenate(opens), np.concatenate(closes), np.array(borders, np.int64), np.array(documents, np.int64)


def _segments(store: Store, start: int, stop: int, longest: int) -> Int[np.ndarray, " segments"]:
    """Return the starts of a document's sentences, cut to at most `longest` tokens so that two fit a row."""
    first, last = np.searchsorted(store.sentence_starts, [start, stop])
    bounds = np.unique(np.concatenate([[start], store.sentence_starts[first:last], [stop]]))
    pieces = [np.arange(begin, end, longest) for begin, end in zip(bounds[:-1], bounds[1:], strict=True)]
    return np.concatenate(pieces).astype(np.int64)


def truncated(
    first: np.ndarray, second: np.ndarray, room: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Truncate two segments to `room` tokens in total, as if the longer one lost tokens one by one at a random end."""
    excess = max(0, len(first) + len(second) - room)
    levelled = min(excess, abs(len(first) - len(second)))
    most = levelled + (excess - levelled) // 2
    losses = (most, excess - most) if len(first) > len(second) else (excess - most, most)
    fronts = [int(rng.binomial(loss, 0.5)) for loss in losses]
    return (
        first[fronts[0] : len(first) - losses[0] + fronts[0]],
        second[fronts[1] : len(second) - losses[1] + fronts[1]],
    )
