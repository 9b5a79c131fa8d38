"""Row plans of two segments of sentences: BERT's `pairs` and ALBERT's `consecutive`.

`pairs` takes the second segment from another document in a share of the rows (Devlin et al. 2019, arXiv:1810.04805,
A.2); in `consecutive` it always follows the first (Lan et al. 2020, arXiv:1909.11942, section 3.1).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError
from lm_jax.data import rows, segments
from lm_jax.data.rows import Request, Row, RowsConfig
from lm_jax.data.store import Store


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of segments: the two parts of a chunk, or its first part and a segment of another document.

    A chunk is a run of sentences of one document, at most `length` tokens in total; a long sentence counts as several.
    Sentence i holds the tokens starts[i]..stops[i] - 1. Chunk i holds the sentences opens[i]..closes[i] - 1 and belongs
    to document documents[i].
    """

    store: Store
    config: RowsConfig
    starts: Int[np.ndarray, " segments"]
    stops: Int[np.ndarray, " segments"]
    opens: Int[np.ndarray, " chunks"]
    closes: Int[np.ndarray, " chunks"]
    documents: Int[np.ndarray, " chunks"]
    length: int

    def __len__(self) -> int:
        return len(self.documents)

    def row(self, index: int, epoch: int, rng: np.random.Generator) -> Row:
        """Return the segments `first` and `second`, and whether the second follows the first (`is_next`)."""
        first, last = int(self.opens[index]), int(self.closes[index])
        room = self.length
        if rng.random() < self.config.short:
            room = int(rng.integers(2, self.length + 1))
        # A chunk of one sentence has no second part.
        is_next = bool(rng.random() >= self.config.random) and last - first > 1
        middle = first + 1 if last - first == 1 else int(rng.integers(first + 1, last))
        head = self._read(first, middle)
        tail = self._read(middle, last) if is_next else self._random_segment(index, rng, max(1, room - len(head)))
        head, tail = segments.truncated(head, tail, room, rng)
        return {"first": head, "second": tail, "is_next": np.array(is_next, np.int32)}

    filling = rows.permuted

    def _read(self, first: int, last: int) -> Int[np.ndarray, " tokens"]:
        return self.store.read(int(self.starts[first]), int(self.stops[last - 1]))

    def _random_segment(self, index: int, rng: np.random.Generator, room: int) -> Int[np.ndarray, " tokens"]:
        """Return at most `room` tokens, from a random sentence on, of a random chunk of another document."""
        # Draw from the chunks before `start` and from `stop` on: those between are of the same document.
        start, stop = np.searchsorted(self.documents, [self.documents[index], self.documents[index] + 1]).tolist()
        other = int(rng.integers(len(self.documents) - (stop - start)))
        other += stop - start if other >= start else 0
        first, last = int(self.opens[other]), int(self.closes[other])
        return self._read(int(rng.integers(first, last)), last)[:room]


def pairs(request: Request) -> Pairs:
    """Build the plan `pairs`."""
    plan = _pairs(request)
    # Documents ascend, so the first and the last tell whether there are two.
    documents = len({*plan.documents[:1].tolist(), *plan.documents[-1:].tolist()})
    if documents == 1 or (request.split == "train" and not documents):
        raise InputError(
            f"config.data.rows.plan is pairs, but the {request.split} split has {documents} documents and a pair may "
            "need two; set config.data.document=paragraph, change config.data.validation, add text, or train without "
            "pairs: config.objective.masked.next_sentence=false or config.objective.permutation.pairs=false"
        )
    return plan


def consecutive(request: Request) -> Pairs:
    """Build the plan `consecutive`: `pairs` without segments of another document, and so without short chunks.

    A chunk needs two sentences, or a sentence of more than half a row, which is cut. The plan leaves out the others,
    which are the last sentences of some documents; `is_next` is always 1.
    """
    plan = _pairs(request)
    whole = np.flatnonzero(plan.closes - plan.opens > 1)
    if request.split == "train" and not len(whole):
        raise InputError(
            "config.data.rows.plan is consecutive, but no document of the train split has two sentences; set "
            "config.data.document=file (with records: config.data.group) for longer documents, or train without pairs"
        )
    return dataclasses.replace(
        plan,
        config=dataclasses.replace(plan.config, random=0.0),
        opens=plan.opens[whole],
        closes=plan.closes[whole],
        documents=plan.documents[whole],
    )


def _pairs(request: Request) -> Pairs:
    store, start, stop = request.line()
    length = request.reads.length
    if length < 2:
        raise InputError(f"config.data.length leaves {length} tokens for a pair; expected at least 2")
    chosen = rows.documents(store, request.split, start, stop)
    document_starts = np.asarray(store.document_starts[chosen])
    # Pairs leave out [EOS] and empty documents.
    document_stops = store.document_stops()[chosen] - 1
    numbers = np.flatnonzero(document_stops > document_starts)
    starts, stops, chunks, owners = segments.chunks(store, document_starts[numbers], document_stops[numbers], length)
    return Pairs(store, request.config, starts, stops, chunks[:-1], chunks[1:], numbers[owners], length)
