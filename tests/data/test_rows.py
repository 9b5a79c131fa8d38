import json

import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.data import order, pipeline, rows, store
from lm_jax.data.clean.chain import CleanConfig
from lm_jax.data.rows import RowsConfig
from lm_jax.data.sources import SourceConfig
from lm_jax.data.tokenizers import TokenizerConfig

PACKED = RowsConfig(plan="packed")
STILL = RowsConfig(plan="packed", shift=False)


def generator():
    return np.random.default_rng(0)


def all_tokens(made, epoch=0):
    return [made.row(index, epoch, generator())["tokens"] for index in range(len(made))]


def bytes_store(path, documents):
    (path / "rows.jsonl").write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    source = SourceConfig(path=str(path / "rows.jsonl"))
    return store.prepare(path, source, CleanConfig(), TokenizerConfig(kind="bytes"))


@pytest.mark.parametrize("overlap", [0, 1, 7])
def test_packed_rows_cover_the_training_part_once(golden_store, overlap):
    made = rows.make(golden_store, STILL, "train", length=32, validation=0.1, overlap=overlap)
    cut = int(golden_store.tokens * 0.9)

    tokens = all_tokens(made)

    assert {len(row) for row in tokens} == {32}
    joined = np.concatenate([tokens[0], *(row[overlap:] for row in tokens[1:])])
    assert np.array_equal(joined, golden_store.read(0, len(joined)))
    # The last partial row is dropped, and nothing more.
    assert cut - (32 - overlap) < len(joined) <= cut


@pytest.mark.parametrize("overlap", [0, 1, 7])
def test_validation_keeps_its_last_short_row(golden_store, overlap):
    made = rows.make(golden_store, PACKED, "validation", length=32, validation=0.1, overlap=overlap)
    cut = int(golden_store.tokens * 0.9)

    tokens = all_tokens(made)

    joined = np.concatenate([tokens[0], *(row[overlap:] for row in tokens[1:])])
    assert np.array_equal(joined, golden_store.read(cut, golden_store.tokens))
    assert overlap < len(tokens[-1]) <= 32
    assert all(len(row) == 32 for row in tokens[:-1])


def test_shifted_rows_stay_inside_and_move_with_the_epoch(golden_store):
    made = rows.make(golden_store, PACKED, "train", length=33, validation=0.1, overlap=1, seed=3)
    start, stop = rows.span(golden_store, "train", 0.1)
    whole = golden_store.read(start, stop)
    offsets = []

    for epoch in range(40):
        first = made.row(0, epoch, generator())["tokens"]
        last = made.row(len(made) - 1, epoch, generator())["tokens"]
        offsets.append(next(offset for offset in range(64) if np.array_equal(whole[offset : offset + 33], first)))
        end = offsets[-1] + (len(made) - 1) * 32
        assert np.array_equal(whole[end : end + 33], last)

    assert len(set(offsets)) > 15
    assert max(offsets) < 32
    again = rows.make(golden_store, PACKED, "train", length=33, validation=0.1, overlap=1, seed=3)
    assert np.array_equal(again.row(5, 7, generator())["tokens"], made.row(5, 7, generator())["tokens"])


@pytest.mark.parametrize("length", [19_342, 19_300, 10_000, 9_000])
def test_few_long_rows_are_shifted_no_further_than_they_fit(golden_store, length):
    made = rows.make(golden_store, PACKED, "train", length=length, validation=0.1)

    assert len(made) >= 1
    for epoch in range(20):
        assert all(len(row) == length for row in all_tokens(made, epoch))


@pytest.mark.parametrize("plan", rows.PLANS)
def test_training_and_validation_share_no_token(golden_store, plan):
    config = RowsConfig(plan=plan)
    parts = {}
    for split in rows.SPLITS:
        made = rows.make(golden_store, config, split, length=64, validation=0.2)
        spans = set()
        read, golden_store.read = golden_store.read, lambda start, stop, spans=spans: _noted(spans, start, stop)
        try:
            for index in range(len(made)):
                made.row(index, 0, order.generator(0, 0, index))
        finally:
            golden_store.read = read
        parts[split] = set().union(*(range(start, stop) for start, stop in spans))

    assert parts["train"] and parts["validation"]
    assert not parts["train"] & parts["validation"]


def _noted(spans, start, stop):
    spans.add((start, stop))
    return np.zeros(stop - start, np.int32)


def test_examples_are_documents_cut_at_the_length(golden_store):
    made = rows.make(golden_store, RowsConfig(plan="examples"), "train", length=100, validation=0.1)
    documents = list(golden_store.documents_between(0, len(made)))

    for row, document in zip(all_tokens(made), documents, strict=True):
        assert np.array_equal(row, document[:100])
    validation = rows.make(golden_store, RowsConfig(plan="examples"), "validation", length=100, validation=0.1)
    assert len(made) + len(validation) == golden_store.documents


def test_pairs_fill_their_length_with_neighbours_or_strangers(golden_store, golden_tokenizer):
    made = rows.make(golden_store, RowsConfig(plan="pairs"), "train", length=96, validation=0.1)
    whole = golden_tokenizer.decode(golden_store.read(0, golden_store.tokens))
    following = lengths = 0
    drawn = [
        made.row(index, epoch, order.generator(0, epoch, index)) for epoch in range(4) for index in range(len(made))
    ]

    for row in drawn:
        first, second = row["first"], row["second"]
        assert 1 <= len(first) and 1 <= len(second) and len(first) + len(second) <= 96
        assert golden_tokenizer.eos not in first and golden_tokenizer.eos not in second
        following += int(row["is_next"])
        lengths += len(first) + len(second)

    # 0.5 within four standard deviations, less what single sentences take from it.
    assert 0.4 < following / len(drawn) < 0.5 + 2 / len(drawn) ** 0.5
    assert lengths / len(drawn) > 0.6 * 96
    neighbours = [row for row in drawn if row["is_next"] and len(row["first"]) + len(row["second"]) < 70]
    joined = [golden_tokenizer.decode(np.concatenate([row["first"], row["second"]])) for row in neighbours]
    assert np.mean([text in whole for text in joined]) > 0.8
    repeated = made.row(3, 1, order.generator(0, 1, 3))
    assert all(np.array_equal(repeated[name], made.row(3, 1, order.generator(0, 1, 3))[name]) for name in repeated)


def test_strangers_come_from_another_document(tmp_path):
    prepared = bytes_store(
        tmp_path, ["aaaa aaa. Aaaa aaaa. Aaa." * 3, "bbb bb. Bb bbb. Bbb." * 3, "ccc cc. Ccc. Cc." * 3]
    )
    made = rows.make(prepared, RowsConfig(plan="pairs", random=1.0), "train", length=40, validation=0.0)

    for index in range(len(made)):
        row = made.row(index, 0, order.generator(0, 0, index))
        first, second = (prepared.tokenizer.decode(row[name]).lower() for name in ("first", "second"))
        letters = [set(text) & set("abc") for text in (first, second)]
        assert not letters[0] & letters[1]
        assert row["is_next"] == 0


def test_pairs_of_one_long_sentence_are_cut(tmp_path):
    prepared = bytes_store(tmp_path, ["a" * 500, "b" * 500])
    made = rows.make(prepared, RowsConfig(plan="pairs", random=0.0, short=0.0), "train", length=50, validation=0.0)

    sizes = [len(row["first"]) + len(row["second"]) for row in (made.row(i, 0, generator()) for i in range(len(made)))]

    assert sizes == [50] * 20


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (STILL, {"length": 30_000}, "config.data.length: a row takes 30000 tokens, but the training part has"),
        (RowsConfig(plan="streams"), {}, "config.data.rows.plan is 'streams'.*packed"),
        (STILL, {"validation": 1.5}, "config.data.validation is 1.5"),
        (STILL, {"length": 4, "overlap": 4}, "config.data.length"),
        (RowsConfig(plan="pairs"), {"validation": 0.999}, "config.data.rows.plan is pairs, but the train part has 1"),
        (RowsConfig(plan="pairs"), {"length": 1}, "config.data.length leaves 1"),
    ],
)
def test_plans_that_cannot_work_are_refused(golden_store, config, settings, message):
    with pytest.raises(InputError, match=message) as caught:
        rows.make(golden_store, config, "train", **{"length": 32, "validation": 0.1, **settings})

    assert "\n" not in str(caught.value)


def test_the_first_batches_are_those_of_every_earlier_version(golden, golden_store):
    expected = json.loads((golden / "order.json").read_text())
    made = rows.make(golden_store, PACKED, "train", length=33, overlap=1, validation=0.1)

    assert golden_store.tokenizer.fingerprint == expected["tokenizer"]
    assert (golden_store.tokens, golden_store.documents, len(made)) == (
        expected["tokens"],
        expected["documents"],
        expected["rows"],
    )
    for step, tokens in zip((0, 1, 1000), expected["batches"], strict=True):
        batch = pipeline.batch_at(made, lambda row, rng: row, step, seed=7, batch=4)
        assert batch["tokens"].tolist() == tokens
