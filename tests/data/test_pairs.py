import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.data import order
from lm_jax.data.rows import RowsConfig
from tests.data.test_rows import bytes_store, make

CONSECUTIVE = RowsConfig(plan="consecutive")


def read(plan, index, epoch=0):
    return plan.row(index, epoch, order.generator(0, epoch, index))


def test_consecutive_segments_follow_each_other_within_one_document(golden_store):
    plan = make(golden_store, RowsConfig(plan="consecutive", short=0.0), "train", length=500, validation=0.1)
    text = golden_store.read(0, golden_store.tokens)
    documents = np.searchsorted(golden_store.document_starts, plan.starts[plan.opens], "right")

    for index in range(len(plan)):
        row = read(plan, index)
        joined = np.concatenate([row["first"], row["second"]])
        # A chunk fits a row, so that nothing is cut and the pair is a stretch of the text.
        start = int(plan.starts[plan.opens[index]])
        assert np.array_equal(joined, text[start : start + len(joined)])
        assert len(row["first"]) and len(row["second"]) and golden_store.tokenizer.eos not in joined
        assert start + len(joined) in (plan.stops[plan.closes[index] - 1], golden_store.tokens)
        assert row["is_next"] == 1
    assert np.all(np.diff(documents) >= 0)


def test_consecutive_segments_share_rows_of_the_length_and_some_are_shorter(golden_store):
    plan = make(golden_store, CONSECUTIVE, "train", length=48, validation=0.1)
    sizes = np.array([len(row["first"]) + len(row["second"]) for row in (read(plan, i) for i in range(len(plan)))])

    assert sizes.min() >= 2 and sizes.max() <= 48
    full = make(golden_store, RowsConfig(plan="consecutive", short=0.0), "train", length=48, validation=0.1)
    whole = np.array([len(row["first"]) + len(row["second"]) for row in (read(full, i) for i in range(len(full)))])
    assert 0.02 < np.mean(sizes < whole) < 0.15


def test_a_chunk_of_one_sentence_gives_no_consecutive_pair(tmp_path):
    documents = ["One is here. Two is here. Three is here.", "Alone.", "A" * 60]
    prepared = bytes_store(tmp_path, documents)
    plan = make(prepared, RowsConfig(plan="consecutive", short=0.0), "train", length=44, validation=0.0)

    texts = [[prepared.tokenizer.decode(read(plan, index)[name]) for name in ("first", "second")] for index in range(2)]

    assert len(plan) == 2
    assert "".join(texts[0]) == documents[0]
    # A sentence of more than half a row counts as several.
    assert texts[1] == ["A" * 22] * 2


def test_documents_of_single_sentences_give_no_consecutive_pairs(tmp_path):
    prepared = bytes_store(tmp_path, ["One.", "Two.", "Three."])

    with pytest.raises(
        InputError, match="plan is consecutive, but no document of the train split.*config.data"
    ) as caught:
        make(prepared, CONSECUTIVE, "train", length=40, validation=0.0)
    assert "\n" not in str(caught.value)
    assert len(make(prepared, CONSECUTIVE, "validation", length=40, validation=0.5)) == 0
