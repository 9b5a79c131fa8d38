"""Batches are cut to the lengths of their rows, and rows of similar length share them, on every host alike."""

import itertools
import json

import numpy as np
import pytest

from lm_jax import experiment, flags
from lm_jax.core.config import InputError
from lm_jax.data import lengths, pipeline
from lm_jax.data.lengths import Buckets, Similar
from lm_jax.data.mixture import Labelled, Mixture
from lm_jax.data.rows import permuted

LENGTH, BATCH = 24, 8
FULL = Buckets((LENGTH,), {"tokens": ("length",)})


# For each case, the recipe, the objective, its settings, and the kinds of the columns that it reads.
CASES = {
    "classify": ("bert", "classify", [], {"text": "text", "label": "label"}),
    "pair": ("bert", "classify", ["pair=other"], {"text": "text", "other": "text", "label": "label"}),
    "tag": ("bert", "tag", [], {"text": "text", "tags": "tags"}),
    "choice": ("bert", "choice", ["choices=text,other"], {"text": "text", "other": "text", "label": "label"}),
    "pattern": (
        *("bert", "pattern", ["template={other}? {mask}: {text}"]),
        {"text": "text", "other": "text", "label": "label"},
    ),
    "embed": ("bert", "embed", ["pair=other"], {"text": "text", "other": "text"}),
    "answer": (
        *("bert", "answer", ["context=text", "question=other", "question_length=4", "overlap=2"]),
        {"text": "text", "other": "text", "answers": "spans"},
    ),
    "translate": ("t5", "seq2seq", ["source=text", "target=other"], {"text": "text", "other": "text"}),
    "continue": ("gpt", "seq2seq", ["source=text", "target=other"], {"text": "text", "other": "text"}),
}


# The others are slow.
QUICK = ("choice", "translate")
EACH = [pytest.param(case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]


@pytest.fixture
def prepare(repository, tmp_path):
    """Prepares an experiment on 100 records of different lengths; `words` are other settings."""

    def build(*words, case="classify"):
        rng = np.random.default_rng(0)
        draw = lambda: rng.choice(["the", "sea", "runs", "and", "a", "star"], int(rng.geometric(0.25))).tolist()
        records = []
        for number in range(100):
            text = draw()
            answers = {"tags": [str(len(word)) for word in text], "answers": [[0, len(text[0]), ""]]}
            records.append({"text": " ".join(text), "other": " ".join(draw()), "label": number % 2, **answers})
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, records)))
        recipe, objective, options, columns = CASES[case]
        settings = [f"--config.data.path={tmp_path / 'rows.jsonl'}", f"--config.data.length={LENGTH}"]
        settings += [f"--config.data.batch={BATCH}", "--config.data.validation=0.2", "--config.data.workers=1"]
        settings += [f"--config.data.store={tmp_path / 'store'}", f"--config.objective.name={objective}"]
        settings += [f"--config.data.tokenizer.path={repository / 'tests' / 'golden' / 'tokenizer'}"]
        settings += [f"--config.data.columns.{name}.kind={kind}" for name, kind in columns.items()]
        settings += [f"--config.data.columns.{name}.of=text" for name in ("tags", "answers") if name in columns]
        settings += [f"--config.objective.{objective}.{option}" for option in options]
        config, _ = flags.configure(flags.load_recipe(f"{recipe}:tiny"), [*settings, *words])
        return experiment.prepare(experiment.parse(config))

    return build


def real(batch):
    """The number of entries of each row before its padding, in the longest sequence of any feature."""
    last = lambda array: (np.arange(1, array.shape[-1] + 1) * (array > 0)).max(-1)
    names = [name for name in ("segments", "source_segments", "weights") if np.ndim(batch.get(name)) > 1]
    return np.max([last(batch[name]).reshape(len(batch[name]), -1).max(1) for name in names], 0)


@pytest.mark.parametrize("case", EACH)
def test_the_length_of_a_row_is_known_before_it_is_read(prepare, case):
    exp = prepare(case=case)
    rows = exp.feed.rows("train")
    read = real(next(pipeline.ordered(rows, exp.objective.features, batch=len(rows))))
    np.testing.assert_array_equal(lengths.of(rows), read)
    assert read.min() < 12 and read.max() == LENGTH


@pytest.mark.parametrize("case", EACH)
def test_a_cut_batch_is_the_beginning_of_the_whole_one(prepare, case):
    words = ["--config.data.buckets=8,16", "--config.data.rows.window=6"]
    exp = prepare(*words, case=case)
    assert exp.buckets.sizes == (8, 16, LENGTH)
    whole = itertools.islice(prepare(words[1], case=case).feed.batches(0), 20)
    sizes = []
    for step, (full, cut) in enumerate(zip(whole, exp.feed.batches(0), strict=False)):
        size = next(size for size in exp.buckets.sizes if size >= real(full).max())
        assert exp.buckets.of_batch(cut) == exp.feed.bucket(step) == size
        for name, like in exp.batch_of(size).items():
            expected = full[name][..., :size] if name in exp.buckets.axes else full[name]
            np.testing.assert_array_equal(cut[name], expected)
            assert cut[name].shape == like.shape and cut[name].dtype == like.dtype
        sizes.append(size)
    assert len(set(sizes)) > 1


def test_hosts_cut_their_rows_alike(prepare):
    exp = prepare("--config.data.buckets=8,16")
    settings = {"seed": 0, "batch": BATCH, "buckets": exp.buckets}
    rows, features = exp.feed.rows("train"), exp.objective.features
    for step in range(10):
        full = pipeline.batch_at(rows, features, step, **settings)
        for places in np.split(np.arange(BATCH), 2):
            part = pipeline.batch_at(rows, features, step, local=places, **settings)
            np.testing.assert_array_equal(part["tokens"], full["tokens"][places])


def test_evaluation_reads_cut_batches_with_padding_rows(prepare):
    exp, whole = prepare("--config.data.buckets=8,16"), prepare()
    batches = list(zip(exp.feed.ordered("validation"), whole.feed.ordered("validation"), strict=True))
    assert len(batches) == 3 and not batches[-1][0]["weights"].all()
    for cut, full in batches:
        size = exp.buckets.of_batch(cut)
        np.testing.assert_array_equal(cut["tokens"], full["tokens"][:, :size])
        assert real(full).max() <= size and not full["segments"][:, size:].any()
    assert min(exp.buckets.of_batch(cut) for cut, _ in batches) < LENGTH


def test_an_objective_that_understates_a_length_is_refused(prepare, monkeypatch):
    exp = prepare("--config.data.buckets=8,16")
    lengths_of = type(exp.objective).lengths
    monkeypatch.setattr(type(exp.objective), "lengths", lambda self, sizes: lengths_of(self, sizes) // 2)
    with pytest.raises(ValueError, match="a row of at most 16 tokens has entries of 'segments' beyond them"):
        list(exp.feed.ordered("train"))


class Sized:
    """Rows whose lengths are drawn at random."""

    def __init__(self, count):
        self.sizes = np.random.default_rng(1).integers(1, 100, count)

    def __len__(self):
        return len(self.sizes)

    def row(self, index, epoch, rng):
        return {"tokens": np.arange(self.sizes[index])}

    def lengths(self):
        return self.sizes

    filling = permuted


@pytest.mark.parametrize(("count", "window", "batch"), [(103, 3, 8), (64, 4, 8), (5, 3, 4), (40, 100, 7), (9, 1, 2)])
def test_every_row_appears_once_in_each_epoch(count, window, batch):
    plan = Similar(Sized(count), window, batch)
    filled = plan.filling(np.arange(3 * count), 7)
    for epoch in range(3):
        part = filled[epoch * count : (epoch + 1) * count]
        assert {each[1:3] for each in part} == {(7, epoch)}
        assert sorted(each[3] for each in part) == list(range(count))
    order = np.random.default_rng(0).permutation(3 * count)
    assert [filled[slot] for slot in order] == Similar(plan.rows, window, batch).filling(order, 7)
    assert filled != plan.filling(np.arange(3 * count), 8)


def test_rows_of_a_batch_have_similar_lengths_in_random_order():
    rows, batch = Sized(4096), 16
    spread = {}
    for window in (1, 8, 64):
        filled = Similar(rows, window, batch).filling(np.arange(4096), 3)
        by_batch = lengths.of_filled(filled).reshape(-1, batch)
        spread[window] = np.mean(by_batch.max(1) - by_batch.mean(1))
        # The batches of a window are shuffled.
        means = by_batch.mean(1).reshape(-1, window)
        assert window == 1 or abs(np.mean([np.corrcoef(each, np.arange(window))[0, 1] for each in means])) < 0.25
    assert spread[64] < 2 and spread[8] < 8 and spread[1] > 40


def test_a_window_keeps_the_rows_of_the_shuffled_order():
    rows = Sized(1000)
    plain, similar = (plan.filling(np.arange(160), 5) for plan in (rows, Similar(rows, 10, 16)))
    assert plain != similar and sorted(each[3] for each in plain) == sorted(each[3] for each in similar)


@pytest.mark.parametrize("longest", [30, 32, 700])
def test_lengths_are_chosen_for_the_least_work(longest):
    rng = np.random.default_rng(longest)
    rows = np.append(np.minimum(rng.geometric(8 / longest, 4000), longest), longest)
    work = lambda sizes: np.array(sizes)[np.searchsorted(sizes, rows)].sum() + lengths.PROGRAM * len(sizes)
    chosen = lengths.economical(rows, longest)
    # All sets of at most three of these lengths.
    others = range(6, longest, 6 if longest < 512 else 18)
    sets = [(*each, longest) for count in range(3) for each in itertools.combinations(others, count)]
    assert chosen[-1] == longest and work(chosen) <= min(map(work, sets))


def test_few_rows_and_none_have_one_length():
    assert lengths.economical(np.array([3, 17, 9]), 128) == (18,)
    assert lengths.economical(np.array([], np.int64), 128) == (2,)


def test_lengths_of_mixed_rows_are_those_of_their_parts():
    parts = tuple(Labelled(name, Sized(count)) for name, count in (("a", 20), ("b", 7)))
    mixture = Mixture(("a", "b"), parts, (1, 2), np.array([3, 1]))
    rng = np.random.default_rng(0)
    read = [len(mixture.row(index, 0, rng)["tokens"]) for index in range(27)]
    assert lengths.of(mixture).tolist() == read
    filled = mixture.filling(np.arange(40), 0)
    assert lengths.of_filled(filled).tolist() == [len(plan.row(index, 0, rng)["tokens"]) for plan, *_, index in filled]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--config.data.buckets=0"], r"config\.data\.buckets"),
        (["--config.data.rows.window=-1"], r"config\.data\.rows\.window"),
    ],
)
def test_settings_that_cannot_be_are_refused(prepare, words, error):
    with pytest.raises(InputError, match=error):
        prepare(*words)


@pytest.mark.parametrize("setting", ["buckets=8", "rows.window=2"])
def test_plans_that_do_not_know_their_lengths_are_refused(repository, tmp_path, setting):
    path = repository / "tests" / "golden"
    words = [f"--config.data.path={path / 'text.txt'}", f"--config.data.tokenizer.path={path / 'tokenizer'}"]
    words += [f"--config.data.store={tmp_path}", "--config.data.workers=1", f"--config.data.{setting}"]
    config, _ = flags.configure(flags.load_recipe("gpt:tiny"), words)
    exp = experiment.prepare(experiment.parse(config))
    with pytest.raises(InputError, match=rf"config\.data\.{setting[:-2]}: this row plan does not know how long"):
        exp.feed.rows("train")
