import json
import lzma

import numpy as np
import pytest

from lm_jax.core.config import InputError, Tree
from lm_jax.data import corpora, order, pipeline, plans, rows, store
from lm_jax.data.clean.chain import CleanConfig
from lm_jax.data.config import DataConfig
from lm_jax.data.rows import Reads, Request, RowsConfig
from lm_jax.data.sources import SourceConfig
from lm_jax.data.tokenizers import TokenizerConfig
from lm_jax.data.windows import Windows

PACKED = RowsConfig(plan="packed")
UNSHIFTED = RowsConfig(plan="packed", shift=False)


def make(corpus, config, split, *, length, validation, overlap=0, columns=None, **settings):
    reads = Reads(plan="packed", length=length, overlap=overlap, columns=columns or {})
    return plans.make(
        Request(tokens=corpus, config=config, split=split, reads=reads, validation=validation, **settings)
    )


def generator():
    return np.random.default_rng(0)


def all_tokens(plan, epoch=0):
    return [plan.row(index, epoch, generator())["tokens"] for index in range(len(plan))]


def bytes_store(path, documents):
    (path / "rows.jsonl").write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    source = SourceConfig(path=str(path / "rows.jsonl"))
    return store.prepare(path, source, CleanConfig(), TokenizerConfig(kind="bytes"))


QUESTIONS = [
    {"question": "why?", "context": "abcdefghijklmnopqrstuvwxyz", "answers": [[1, 3, "a"], [24, 26, "a"]]},
    {"question": "", "context": "without a question", "answers": []},
    {"question": "a long question", "context": "abcdefghijklmnop", "answers": []},
    {"question": "q", "context": "short", "answers": [[0, 5, "a"]]},
]


def question_rows(path, split="train", *, validation=0.0, windows=None, **columns):
    (path / "qa.jsonl").write_text("".join(json.dumps(record) + "\n" for record in QUESTIONS))
    tree = Tree(question=Tree(), context=Tree(), answers=Tree(kind="spans", of="context"))
    tokenizer = TokenizerConfig(kind="bytes")
    data = DataConfig(path=str(path / "qa.jsonl"), columns=tree, tokenizer=tokenizer, store=str(path), workers=1)
    reads = Reads(plan="columns", length=20, columns={"answers": 0, **columns}, windows=windows)
    request = Request(
        tokens=corpora.prepare(data), config=RowsConfig(), split=split, reads=reads, validation=validation
    )
    return plans.make(request)


@pytest.mark.parametrize("overlap", [0, 3, 8])
def test_windows_cover_every_token_of_long_texts(tmp_path, overlap):
    windows = Windows(column="context", beside=("question",), room=14, overlap=overlap)
    plan = question_rows(tmp_path, question=5, context=14, windows=windows)
    contexts = [QUESTIONS[record]["context"] for record in plan.numbers]
    decode = plan.columns.tokenizer.decode

    assert list(dict.fromkeys(plan.numbers.tolist())) == [0, 2, 3]
    ends: dict[int, int] = {}
    for index, context in enumerate(contexts):
        record, row = int(plan.numbers[index]), plan.row(index, 0, generator())
        start, text = int(row["window"]), decode(row["context"])
        assert len(row["question"]) + len(text) <= 14 and len(row["question"]) <= 5
        assert text == context[start : start + len(text)] and start == plan.starts[index]
        # Each window but the last is full, and begins `overlap` tokens before the end of the one before.
        assert start == (ends[record] - overlap if record in ends else 0)
        assert start + len(text) > ends.get(record, 0)
        last = index + 1 == len(plan) or plan.numbers[index + 1] != record
        assert (start + len(text) == len(context)) == last and (last or len(text) == 14 - len(row["question"]))
        ends[record] = start + len(text)
        # Spans refer to the whole text, whatever the window.
        assert [QUESTIONS[record]["context"][a:b] for a, b, _ in row["answers"]] == [
            QUESTIONS[record]["context"][a:b] for a, b, _ in QUESTIONS[record]["answers"]
        ]


def test_windows_of_a_record_stay_in_its_split(tmp_path):
    windows = Windows(column="context", beside=("question",), room=14, overlap=3)
    plans_of = {
        split: question_rows(tmp_path, split, validation=0.5, question=5, context=14, windows=windows)
        for split in ("train", "validation")
    }
    assert {split: {*plan.numbers.tolist()} for split, plan in plans_of.items()} == {
        "train": {0},
        "validation": {2, 3},
    }


def test_without_windows_a_record_is_a_row(tmp_path):
    plan = question_rows(tmp_path, question=5, context=9)
    rows_of = [plan.row(index, 0, generator()) for index in range(len(plan))]
    assert plan.numbers.tolist() == [0, 2, 3] and plan.starts.tolist() == [0, 0, 0]
    assert [len(row["context"]) for row in rows_of] == [9, 9, 5] and all("window" not in row for row in rows_of)
    assert rows_of[0]["answers"].tolist() == [[1, 3, 0]]


def test_windows_longer_than_a_row_are_refused(tmp_path):
    windows = Windows(column="context", beside=("question",), room=14, overlap=9)
    with pytest.raises(InputError, match="leaves 9 tokens of a row for a window .* share 9; increase it, or lower"):
        question_rows(tmp_path, question=5, context=14, windows=windows)


@pytest.mark.parametrize("overlap", [0, 1, 7])
def test_packed_rows_cover_the_training_split_once(golden_store, overlap):
    plan = make(golden_store, UNSHIFTED, "train", length=32, validation=0.1, overlap=overlap)
    border = int(golden_store.tokens * 0.9)

    tokens = all_tokens(plan)

    assert {len(row) for row in tokens} == {32}
    joined = np.concatenate([tokens[0], *(row[overlap:] for row in tokens[1:])])
    assert np.array_equal(joined, golden_store.read(0, len(joined)))
    # Only the last partial row is dropped.
    assert border - (32 - overlap) < len(joined) <= border


@pytest.mark.parametrize("overlap", [0, 1, 7])
def test_validation_keeps_its_last_short_row(golden_store, overlap):
    plan = make(golden_store, PACKED, "validation", length=32, validation=0.1, overlap=overlap)
    border = int(golden_store.tokens * 0.9)

    tokens = all_tokens(plan)

    joined = np.concatenate([tokens[0], *(row[overlap:] for row in tokens[1:])])
    assert np.array_equal(joined, golden_store.read(border, golden_store.tokens))
    assert overlap < len(tokens[-1]) <= 32
    assert all(len(row) == 32 for row in tokens[:-1])


def test_shifted_rows_stay_inside_and_move_with_the_epoch(golden_store):
    plan = make(golden_store, PACKED, "train", length=33, validation=0.1, overlap=1, seed=3)
    start, stop = rows.span(golden_store.tokens, "train", 0.1)
    split = golden_store.read(start, stop)
    offsets = []

    for epoch in range(40):
        first = plan.row(0, epoch, generator())["tokens"]
        last = plan.row(len(plan) - 1, epoch, generator())["tokens"]
        offsets.append(next(offset for offset in range(64) if np.array_equal(split[offset : offset + 33], first)))
        end = offsets[-1] + (len(plan) - 1) * 32
        assert np.array_equal(split[end : end + 33], last)

    assert len(set(offsets)) > 15
    assert max(offsets) < 32
    again = make(golden_store, PACKED, "train", length=33, validation=0.1, overlap=1, seed=3)
    assert np.array_equal(again.row(5, 7, generator())["tokens"], plan.row(5, 7, generator())["tokens"])


@pytest.mark.parametrize("length", [19_342, 19_300, 10_000, 9_000])
def test_shifts_of_few_long_rows_stay_within_the_split(golden_store, length):
    plan = make(golden_store, PACKED, "train", length=length, validation=0.1)

    assert len(plan) >= 1
    for epoch in range(20):
        assert all(len(row) == length for row in all_tokens(plan, epoch))


@pytest.mark.parametrize("plan", sorted(plans.PLANS.keys() - {"columns"}))
def test_training_and_validation_share_no_token(golden_store, plan):
    config = RowsConfig(plan=plan)
    parts = {}
    for split in ("train", "validation"):
        plan = make(golden_store, config, split, length=64, validation=0.2)
        spans = set()
        read, golden_store.read = golden_store.read, lambda start, stop, spans=spans: _recorded(spans, start, stop)
        try:
            for index in range(len(plan)):
                plan.row(index, 0, order.generator(0, 0, index))
        finally:
            golden_store.read = read
        parts[split] = set().union(*(range(start, stop) for start, stop in spans))

    assert parts["train"] and parts["validation"]
    assert not parts["train"] & parts["validation"]


def _recorded(spans, start, stop):
    spans.add((start, stop))
    return np.zeros(stop - start, np.int32)


def test_examples_are_truncated_documents(golden_store):
    plan = make(golden_store, RowsConfig(plan="examples"), "train", length=100, validation=0.1)
    bounds = zip(golden_store.document_starts.tolist(), golden_store.document_stops().tolist(), strict=True)

    for row, (start, stop) in zip(all_tokens(plan), bounds, strict=False):
        assert np.array_equal(row, golden_store.read(start, stop)[:100])
    validation = make(golden_store, RowsConfig(plan="examples"), "validation", length=100, validation=0.1)
    assert len(plan) + len(validation) == golden_store.documents


def test_pairs_hold_neighbouring_or_random_segments(golden_store, golden_tokenizer):
    plan = make(golden_store, RowsConfig(plan="pairs"), "train", length=96, validation=0.1)
    text = golden_tokenizer.decode(golden_store.read(0, golden_store.tokens))
    following = lengths = 0
    pairs = [
        plan.row(index, epoch, order.generator(0, epoch, index)) for epoch in range(4) for index in range(len(plan))
    ]

    for row in pairs:
        first, second = row["first"], row["second"]
        assert 1 <= len(first) and 1 <= len(second) and len(first) + len(second) <= 96
        assert golden_tokenizer.eos not in first and golden_tokenizer.eos not in second
        following += int(row["is_next"])
        lengths += len(first) + len(second)

    # At most 0.5 plus four standard deviations; less because chunks of one sentence have no next segment.
    assert 0.4 < following / len(pairs) < 0.5 + 2 / len(pairs) ** 0.5
    assert lengths / len(pairs) > 0.6 * 96
    neighbours = [row for row in pairs if row["is_next"] and len(row["first"]) + len(row["second"]) < 70]
    joined = [golden_tokenizer.decode(np.concatenate([row["first"], row["second"]])) for row in neighbours]
    assert np.mean([pair in text for pair in joined]) > 0.8
    repeated = plan.row(3, 1, order.generator(0, 1, 3))
    assert all(np.array_equal(repeated[name], plan.row(3, 1, order.generator(0, 1, 3))[name]) for name in repeated)


def test_random_segments_come_from_another_document(tmp_path):
    documents = ["aaaa aaa. Aaaa aaaa. Aaa." * 3, "bbb bb. Bb bbb. Bbb." * 3, "ccc cc. Ccc. Cc." * 3]
    prepared = bytes_store(tmp_path, documents)
    plan = make(prepared, RowsConfig(plan="pairs", random=1.0), "train", length=40, validation=0.0)

    for index in range(len(plan)):
        row = plan.row(index, 0, order.generator(0, 0, index))
        first, second = (prepared.tokenizer.decode(row[name]).lower() for name in ("first", "second"))
        letters = [set(text) & set("abc") for text in (first, second)]
        assert not letters[0] & letters[1]
        assert row["is_next"] == 0


def test_pairs_of_one_long_sentence_are_cut(tmp_path):
    prepared = bytes_store(tmp_path, ["a" * 500, "b" * 500])
    plan = make(prepared, RowsConfig(plan="pairs", random=0.0, short=0.0), "train", length=50, validation=0.0)

    sizes = [len(row["first"]) + len(row["second"]) for row in (plan.row(i, 0, generator()) for i in range(len(plan)))]

    assert sizes == [50] * 20


@pytest.mark.parametrize("shift", [True, False])
def test_lanes_of_streams_continue_and_read_every_window_once_an_epoch(golden_store, shift):
    config = RowsConfig(plan="streams", shift=shift)
    plan = make(golden_store, config, "train", length=97, overlap=1, validation=0.1, seed=3, lanes=5)
    steps = len(plan) // 5
    stream = [pipeline.batch_at(plan, lambda row, rng: row, step, seed=3, batch=5) for step in range(2 * steps)]

    for epoch in range(2):
        batches = stream[epoch * steps : (epoch + 1) * steps]
        assert [batch["begins"].all() for batch in batches] == [True, *[False] * (steps - 1)]
        assert not any(batch["begins"].any() for batch in batches[1:])
        # The lanes joined are the text; a row's first token is the last token of the row before.
        lanes = np.concatenate([[batch["tokens"][lane] for batch in batches] for lane in range(5)])
        joined = np.concatenate([lanes[0], *lanes[1:, 1:]])
        whole = golden_store.read(0, int(golden_store.tokens * 0.9))
        offset = next(at for at in range(97) if np.array_equal(whole[at : at + len(joined)], joined))
        assert len(whole) - len(joined) - offset < 6 * 96
    assert len(np.unique(np.concatenate([batch["row_keys"] for batch in stream]), axis=0)) == 10 * steps
    # A batch depends on (seed, step) only, so a resumed run or another host reads the same.
    half = pipeline.batch_at(plan, lambda row, rng: row, 7, seed=3, batch=5, local=np.array([1, 4]))
    assert all(np.array_equal(half[name], stream[7][name][[1, 4]]) for name in half)


def test_lanes_of_streams_cover_novels(shared_data, tmp_path):
    with lzma.open(shared_data / "english_novels" / "novels_dev.jsonl.xz", "rt") as lines:
        corpus = bytes_store(tmp_path, [json.loads(next(lines))["text"] for _ in range(2)])
    plan = make(corpus, RowsConfig(plan="streams", shift=False), "train", length=1024, validation=0.1, lanes=4)
    steps = len(plan) // 4
    batches = [pipeline.batch_at(plan, lambda row, rng: row, step, seed=0, batch=4) for step in range(steps)]
    lanes = [np.concatenate([batch["tokens"][lane] for batch in batches]) for lane in range(4)]
    assert np.array_equal(np.concatenate(lanes), corpus.read(0, 4 * steps * 1024))
    assert int(corpus.tokens * 0.9) - 4 * steps * 1024 < 4 * 1024


@pytest.mark.parametrize("lanes", [1, 4, 7, 100])
def test_an_ordered_pass_over_streams_reads_every_token_once_and_keeps_the_lanes(golden_store, lanes):
    plan = make(golden_store, RowsConfig(plan="streams"), "validation", length=32, validation=0.1, lanes=lanes)
    border = int(golden_store.tokens * 0.9)

    batches = list(pipeline.ordered(plan, lambda row, rng: {**row, "tokens": _padded(row["tokens"])}, batch=lanes))

    read = [tokens[tokens >= 0] for lane in range(lanes) for tokens in (batch["tokens"][lane] for batch in batches)]
    real = [keys.any() for lane in range(lanes) for keys in (batch["row_keys"][lane] for batch in batches)]
    joined = np.concatenate([tokens for tokens, is_real in zip(read, real, strict=True) if is_real])
    assert np.array_equal(joined, golden_store.read(border, golden_store.tokens))
    assert batches[0]["begins"][: len(plan)].all() and not any(batch["begins"].any() for batch in batches[1:])


def test_a_number_of_tokens_is_held_out(golden_store):
    plan = make(golden_store, PACKED, "validation", length=32, validation=100.0)
    total = golden_store.tokens
    assert np.array_equal(np.concatenate(all_tokens(plan)), golden_store.read(total - 100, total))
    with pytest.raises(InputError, match="config.data.validation is 374.5"):
        DataConfig(validation=374.5)


def _padded(tokens):
    return np.concatenate([tokens, np.full(32 - len(tokens), -1, np.int32)])


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (RowsConfig(plan="streams"), {"lanes": 700}, "config.data.batch is 700, but the training split has 60. rows"),
        (UNSHIFTED, {"length": 30_000}, "config.data.length: a row takes 30000 tokens, but the training split has"),
        (RowsConfig(plan="stream"), {}, "config.data.rows.plan is 'stream'.*packed.*did you mean streams"),
        (UNSHIFTED, {"validation": 1.5}, "config.data.validation is 1.5"),
        (UNSHIFTED, {"length": 4, "overlap": 4}, "config.data.length"),
        (RowsConfig(plan="pairs"), {"validation": 0.999}, "config.data.rows.plan is pairs, but the train split has 1"),
        (RowsConfig(plan="pairs"), {"length": 1}, "config.data.length leaves 1"),
    ],
)
def test_invalid_plans_are_refused(golden_store, config, settings, message):
    with pytest.raises(InputError, match=message) as caught:
        make(golden_store, config, "train", **{"length": 32, "validation": 0.1, **settings})

    assert "\n" not in str(caught.value)


def test_batches_equal_those_of_earlier_versions(golden, golden_store):
    expected = json.loads((golden / "order.json").read_text())
    plan = make(golden_store, PACKED, "train", length=33, overlap=1, validation=0.1)

    assert golden_store.tokenizer.fingerprint == expected["tokenizer"]
    assert (golden_store.tokens, golden_store.documents) == (expected["tokens"], expected["documents"])
    assert len(plan) == expected["rows"]
    for step, tokens in zip((0, 1, 1000), expected["batches"], strict=True):
        batch = pipeline.batch_at(plan, lambda row, rng: row, step, seed=7, batch=4)
        assert batch["tokens"].tolist() == tokens
