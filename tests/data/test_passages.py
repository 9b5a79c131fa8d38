import itertools

import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.data import order, passages, pipeline, rows
from lm_jax.data.rows import RowsConfig
from tests.data.test_rows import all_tokens, make


def plan(store, name="sentences", split="train", *, length=64, validation=0.2, **settings):
    return make(store, RowsConfig(plan=name), split, length=length, validation=validation, **settings)


def made_up(rng, sentences, documents):
    """Starts of sentences of 1 to 40 tokens and of some documents, and the number of tokens."""
    stops = np.cumsum(rng.integers(1, 41, sentences))
    starts = np.concatenate([[0], stops[:-1]])
    chosen = np.unique(np.concatenate([[0], rng.integers(0, sentences, documents)]))
    return starts, starts[chosen], int(stops[-1])


def divided_one_by_one(sentences, begin, end, room, documents):
    """The definition of `passages.divide`, sentence by sentence."""
    bounds = [*(start for start in sentences.tolist() if begin <= start < end), end]
    bounds = [piece for start, stop in itertools.pairwise(bounds) for piece in range(start, stop, room)]
    rows = [begin]
    for start, stop in itertools.pairwise([*bounds, end]):
        if stop - rows[-1] > room or (documents is not None and start in documents and start > begin):
            rows.append(start)
    return [*rows, end]


@pytest.mark.parametrize("block", [1, 7, 1 << 18])
@pytest.mark.parametrize("apart", [False, True])
def test_rows_take_as_many_sentences_as_fit_whatever_the_blocks(apart, block, monkeypatch):
    monkeypatch.setattr(passages, "BLOCK", block)
    rng = np.random.default_rng(0)

    for _ in range(30):
        sentences, documents, tokens = made_up(rng, sentences=60, documents=6)
        begin, end = sorted(rng.choice([*sentences.tolist(), tokens], 2, replace=False).tolist())
        arguments = (sentences, begin, end, int(rng.integers(1, 80)), documents if apart else None)
        assert passages.divide(*arguments).tolist() == divided_one_by_one(*arguments)


@pytest.mark.parametrize("name", ["sentences", "document_sentences"])
def test_every_sentence_is_in_exactly_one_row(golden_store, name):
    parts = [plan(golden_store, name, split) for split in ("train", "validation")]

    tokens = [row for part in parts for row in all_tokens(part)]

    assert np.array_equal(np.concatenate(tokens), golden_store.read(0, golden_store.tokens))
    assert max(map(len, tokens)) <= 64
    starts, lengths = np.cumsum([0, *map(len, tokens[:-1])]), np.array([*map(len, tokens)])
    cut = ~np.isin(starts, golden_store.sentence_starts)
    # Only sentences longer than a row are cut, into full rows.
    assert np.all(lengths[:-1][cut[1:]] == 64)
    if name == "document_sentences":
        assert set(golden_store.document_starts.tolist()) <= set(starts.tolist())
    else:
        # The end of a document stays in the row, as a separator.
        assert any(golden_store.tokenizer.eos in row[:-1] for row in tokens)


def test_overlapping_rows_repeat_the_tokens_before_them(golden_store):
    tokens = all_tokens(plan(golden_store, split="validation", length=33, overlap=1))

    joined = np.concatenate([tokens[0], *(row[1:] for row in tokens[1:])])

    start = golden_store.tokens - len(joined)
    assert np.array_equal(joined, golden_store.read(start, golden_store.tokens))
    assert start in golden_store.sentence_starts
    assert all(len(row) <= 33 and row[0] == before[-1] for before, row in itertools.pairwise(tokens))


def test_rows_know_where_their_sentences_begin(golden_store):
    reads = rows.Reads(plan="sentences", length=64, borders=True)
    request = rows.Request(tokens=golden_store, config=RowsConfig(), split="train", reads=reads, validation=0.2)
    made = passages.sentences(request)

    for index in range(20):
        row = made.row(index, 0, np.random.default_rng(0))
        starts = golden_store.sentence_starts - made.starts[index]
        assert row["sentences"].tolist() == starts[(starts >= 0) & (starts < len(row["tokens"]))].tolist()


def test_each_epoch_has_another_order_of_the_same_rows(golden_store):
    made = plan(golden_store)
    epochs = [made.filling(np.arange(len(made)) + epoch * len(made), seed=3) for epoch in range(2)]

    orders = [[index for *_, index in filled] for filled in epochs]

    assert sorted(orders[0]) == sorted(orders[1]) == list(range(len(made)))
    assert orders[0] != orders[1]
    assert orders[1] == order.permute(np.arange(len(made)), len(made), order.key(3, 1)).tolist()
    batch = pipeline.batch_at(made, lambda row, rng: {"count": np.int32(len(row["tokens"]))}, 5, seed=3, batch=4)
    assert batch["count"].tolist() == [len(all_tokens(made)[index]) for index in orders[0][20:24]]


def test_passages_that_cannot_be_read_are_refused(golden_store):
    with pytest.raises(InputError, match="rows share no token.*config.data.rows.plan=sentences"):
        plan(golden_store, "document_sentences", overlap=1)
    with pytest.raises(InputError, match="config.data.validation leaves no sentence"):
        plan(golden_store, validation=1.0)
    assert len(plan(golden_store, split="validation", validation=0.0)) == 0
