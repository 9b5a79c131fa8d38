"""Mixtures: shares, the schedule of slots, and batches that read several sources."""

import itertools
import json

import numpy as np
import pytest

from lm_jax import experiment, flags
from lm_jax.core.config import InputError, Tree
from lm_jax.data import corpora, mixture, order, pipeline
from lm_jax.data.config import DataConfig
from lm_jax.data.mixture import Mixture, MixtureConfig
from lm_jax.data.rows import Reads, RowsConfig
from lm_jax.data.tokenizers import TokenizerConfig
from tests.commands import lm_jax
from tests.data.test_pipeline import Numbers, assert_equal


def features(row, rng):
    return {**row, "noise": rng.random(2)}


def numbered(*sizes, count=None):
    """Returns a mixture whose rows hold their numbers, which start at 1000 i in source i."""

    class Offset(Numbers):
        def __init__(self, size, start):
            super().__init__(size)
            self.start = start

        def row(self, index, epoch, rng):
            return {"number": np.int32(self.start + index), "epoch": np.int64(epoch)}

    parts = tuple(Offset(size, 1000 * source) for source, size in enumerate(sizes))
    count = mixture.counts([size / sum(sizes) for size in sizes], 64) if count is None else np.array(count)
    return Mixture(tuple("abcdefgh"[: len(parts)]), parts, tuple(range(11, 11 + len(parts))), count)


def make_rows(stores, plan="packed", length=17):
    reads = Reads(plan=plan, length=length, overlap=1)
    return corpora.make_rows(stores, config=RowsConfig(), split="train", reads=reads, validation=0.1)


def config(**sources):
    return MixtureConfig(sources=Tree({name: Tree(source) for name, source in sources.items()}))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.33, 1e6])
def test_shares_follow_the_temperature(temperature):
    settings = MixtureConfig(sources=Tree(en=Tree(path="a"), sw=Tree(path="b")), temperature=temperature)

    shares = settings.shares({"en": 1_000_000, "sw": 10_000})

    assert shares["en"] / shares["sw"] == pytest.approx(100 ** (1 / temperature))
    assert sum(shares.values()) == pytest.approx(1)


def test_weights_override_sizes():
    settings = config(en={"path": "a", "weight": 3.0}, zh={"path": "b", "weight": 1.0})

    assert settings.shares({"en": 5, "zh": 10**9}) == {"en": 0.75, "zh": 0.25}


@pytest.mark.parametrize(
    "shares", [[1.0], [0.5, 0.3, 0.2], [1 / 3] * 3, [1e-9, 1e-9, 1 - 2e-9], [2.0**-i for i in range(30)]]
)
def test_counts_round_the_shares_to_whole_slots(shares):
    counts = mixture.counts(shares, 1024)

    assert counts.sum() == 1024
    assert counts.min() >= 1
    exact = np.array(shares) / sum(shares) * 1024
    raised = np.maximum(1 - exact, 0).sum()
    assert np.abs(counts - exact).max() <= 1 + raised


@pytest.mark.parametrize(
    "count",
    [[8], [1, 1], [1, 63], [5, 3, 2], [1, 1, 1], [400, 300, 200, 99, 1], [1] * 40 + [24], list(range(1, 60))],
)
def test_a_source_is_never_a_slot_ahead_of_or_behind_its_share(count):
    count = np.array(count)
    schedule = mixture.schedule(count)

    filled = np.cumsum(schedule[:, None] == np.arange(len(count)), axis=0)
    expected = np.arange(1, count.sum() + 1)[:, None] * count / count.sum()

    assert np.array_equal(filled[-1], count)
    assert np.abs(filled - expected).max() < 1


def test_a_schedule_of_random_shares_stays_within_a_slot():
    shares = np.random.default_rng(0).dirichlet(np.full(100, 0.3))
    count = mixture.counts(shares.tolist(), 8192)
    schedule = mixture.schedule(count)

    filled = np.cumsum(schedule[:, None] == np.arange(100), axis=0)
    assert np.abs(filled - np.arange(1, 8193)[:, None] * count / 8192).max() < 1


def test_every_source_counts_its_own_epochs():
    rows = numbered(10, 40, count=[4, 4])
    batches = [pipeline.batch_at(rows, features, step, seed=3, batch=8) for step in range(20)]
    numbers, epochs = (np.concatenate([batch[name] for batch in batches]) for name in ("number", "epoch"))

    for source, size in ((0, 10), (1, 40)):
        chosen = numbers // 1000 == source
        assert chosen.sum() == 80
        assert np.array_equal(epochs[chosen], np.arange(80) // size)
        for epoch in range(80 // size):
            assert sorted(numbers[chosen & (epochs == epoch)] - 1000 * source) == list(range(size))


def test_batches_depend_on_seed_and_step_alone():
    rows = numbered(13, 29, 7)
    stream = list(itertools.islice(pipeline.batches(rows, features, seed=5, batch=8, threads=2), 9))

    for step, batch in enumerate(stream):
        assert_equal(batch, pipeline.batch_at(rows, features, step, seed=5, batch=8))
        halves = [
            pipeline.batch_at(rows, features, step, seed=5, batch=8, local=local) for local in np.split(np.arange(8), 2)
        ]
        assert_equal(batch, {name: np.concatenate([half[name] for half in halves]) for name in batch})
    small = np.concatenate([pipeline.batch_at(rows, features, step, seed=5, batch=4)["number"] for step in range(18)])
    assert np.array_equal(small, np.concatenate([batch["number"] for batch in stream]))


def test_the_order_of_a_source_does_not_depend_on_the_others():
    alone, beside = numbered(50, count=[64]), numbered(50, 80, count=[32, 32])
    first = pipeline.batch_at(alone, features, 0, seed=1, batch=60)
    both = pipeline.batch_at(beside, features, 0, seed=1, batch=120)

    chosen = both["number"] < 1000
    assert np.array_equal(both["number"][chosen], first["number"])
    assert np.array_equal(both["noise"][chosen], first["noise"])
    assert np.array_equal(both["row_keys"][chosen], first["row_keys"])
    assert len(np.unique(both["row_keys"], axis=0)) == 120


def test_evaluation_reads_every_row_once_and_evenly_mixed():
    rows = numbered(5, 20)
    numbers = np.concatenate([batch["number"] for batch in pipeline.ordered(rows, features, batch=5)])

    assert sorted(numbers) == [*range(5), *range(1000, 1020)]
    assert [int((numbers[start : start + 5] < 1000).sum()) for start in range(0, 25, 5)] == [1] * 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["temperature=0"], "mixture.temperature is 0.0; expected a number above 0"),
        (["sources.en.path=a", "sources.en.wieght=2"], "unknown key config.data.mixture.sources.en.wieght; .*weight"),
        (["sources.en.path=a", "sources.zh.path=b", "sources.en.weight=2"], "zh has no weight, but others do"),
        (["sources.en.weight=-1"], "sources.en.weight is -1.0"),
        (["sources.en.weight=1", "temperature=2"], "temperature 2.0 would have no effect"),
        (["sources.e/n.path=a"], "expected a name of letters"),
        (["soruces.en.path=a"], "unknown key config.data.mixture.soruces.en.path; did you mean sources"),
    ],
)
def test_an_invalid_mixture_is_reported_in_one_line(settings, message):
    with pytest.raises(InputError, match=message) as caught:
        recipe = flags.load_recipe("gpt:tiny")
        experiment.parse(flags.configure(recipe, [f"--config.data.mixture.{setting}" for setting in settings])[0])

    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def languages(shared_data_module):
    """The Universal Declaration of Human Rights in four languages."""
    import lzma

    lines = [json.loads(line) for line in lzma.open(shared_data_module / "udhr" / "udhr.jsonl.xz", "rt")]
    texts = {line["lang"]: line["text"] for line in lines}
    return {name: texts[code] for name, code in (("en", "eng"), ("de", "deu"), ("zh", "cmn_hans"), ("zu", "zul"))}


@pytest.fixture(scope="module")
def shared_data_module(repository):
    path = repository.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("no ../shared/data beside the repository")
    return path


@pytest.fixture(scope="module")
def prepared(languages, tmp_path_factory):
    """The data settings and the stores of a mixture in which Zulu is a small fraction."""
    root = tmp_path_factory.mktemp("mixture")
    for name, text in languages.items():
        (root / f"{name}.txt").write_text(text[: 1500 if name == "zu" else len(text)] * (20 if name == "en" else 1))
    sources = Tree({name: Tree(path=str(root / f"{name}.txt")) for name in languages})
    data = DataConfig(
        mixture=MixtureConfig(sources=sources, temperature=3.0),
        tokenizer=TokenizerConfig(vocab=1200, character_coverage=0.99),
        store=str(root / "store"),
        workers=1,
        length=16,
    )
    return data, corpora.prepare(data)


@pytest.mark.parametrize("plan", ["packed", "examples"])
def test_languages_are_read_in_their_shares(prepared, plan):
    data, stores = prepared
    rows = make_rows(stores, plan)
    shares = stores.shares(0.1)

    slots = np.arange(5000)
    filled = np.bincount(rows.assign(slots)[0], minlength=4) / len(slots)

    assert rows.names == ("de", "en", "zh", "zu")
    assert filled == pytest.approx([shares[name] for name in rows.names], abs=2 / 5000)
    sizes = {name: int(each.tokens * 0.9) for name, each in stores.stores.items()}
    assert shares["en"] / shares["zu"] == pytest.approx((sizes["en"] / sizes["zu"]) ** (1 / 3))
    batch = pipeline.batch_at(rows, lambda row, rng: {"size": np.int32(len(row["tokens"]))}, 3, seed=0, batch=32)
    assert batch["size"].max() == 17


def test_a_raised_small_language_gets_more_pieces(prepared, languages):
    data, stores = prepared
    zulu = languages["zu"][:1500]
    proportional = DataConfig(**{**vars(data), "mixture": MixtureConfig(sources=data.mixture.sources)})

    tempered, plain = stores.tokenizer, corpora.train_tokenizer(proportional)[0]

    assert len(tempered.encode(zulu)) < 0.9 * len(plain.encode(zulu))
    assert tempered.fingerprint == corpora.prepare(data).tokenizer.fingerprint
    assert stores.fingerprint == corpora.prepare(data).fingerprint


def test_the_fingerprint_of_a_mixture_depends_on_its_shares(prepared):
    data, stores = prepared
    weighed = {name: Tree({**source, "weight": 1.0}) for name, source in data.mixture.sources.items()}
    others = [
        corpora.Stores(MixtureConfig(sources=data.mixture.sources, temperature=2.0), stores.stores),
        corpora.Stores(MixtureConfig(sources=Tree(weighed)), stores.stores),
    ]
    assert len({stores.fingerprint, *(each.fingerprint for each in others)}) == 3


def test_a_source_that_is_missing_or_too_small_is_named(prepared, tmp_path):
    data, stores = prepared
    with pytest.raises(InputError, match="mixture.sources.zu: config.data.length: a row takes 2500"):
        make_rows(stores, length=2500)
    with pytest.raises(InputError, match="plan is streams, which follows one text, but config.data.mixture names"):
        make_rows(stores, "streams")
    broken = MixtureConfig(sources=Tree({**data.mixture.sources, "fr": Tree(path=str(tmp_path / "fr.txt"))}))
    with pytest.raises(InputError, match="mixture.sources.fr: config.data.path: there is no file"):
        corpora.prepare(DataConfig(**{**vars(data), "mixture": broken}))
    with pytest.raises(InputError, match="config.data.path is 'x.txt', but config.data.mixture names sources too"):
        corpora.prepare(DataConfig(**{**vars(data), "path": "x.txt"}))


def test_a_mixture_trains_from_the_command_line_and_cannot_change_on_resume(golden, tmp_path, capsys):
    paragraphs = (golden / "text.txt").read_text().split("\n\n")
    (tmp_path / "one.txt").write_text("\n\n".join(paragraphs[::2]))
    (tmp_path / "two.tsv").write_text(
        "id\tbody\n" + "".join(f"{at}\t{' '.join(text.split())}\n" for at, text in enumerate(paragraphs[1::2]))
    )
    words = [
        "--config=bert:tiny",
        f"--config.data.mixture.sources.one.path={tmp_path / 'one.txt'}",
        "--config.data.mixture.sources.one.document=paragraph",
        f"--config.data.mixture.sources.two.path={tmp_path / 'two.tsv'}",
        "--config.data.mixture.sources.two.field=body",
        f"--config.data.tokenizer.path={golden / 'tokenizer'}",
        f"--config.data.store={tmp_path / 'store'}",
        "--config.data.workers=1",
        "--config.train.steps=2",
        "--config.optimizer.schedule.warmup=1",
        "--config.evaluate.batches=2",
        f"--workdir={tmp_path / 'run'}",
    ]
    assert lm_jax("train", *words, "--config.data.mixture.temperature=2") == 0

    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "val/loss" in line][-1]
    low, high = sorted((last["val/one/loss"], last["val/two/loss"]))
    assert low <= last["val/loss"] <= high
    assert lm_jax("train", *words, "--config.data.mixture.temperature=3") == 2
    assert "temperature" in capsys.readouterr().err
    other_text = [f"--config.data.path={golden / 'text.txt'}", "--config.data.document=paragraph"]
    assert lm_jax("evaluate", f"--workdir={tmp_path / 'run'}", *other_text) == 0
    assert "text.txt" in capsys.readouterr().out


def test_keys_of_sources_differ(prepared):
    rows = make_rows(prepared[1])
    assert len({order.key(0, key) for key in rows.keys}) == 4
