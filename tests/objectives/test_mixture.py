"""Mixtures of objectives: slots, shares, epochs and padding of the parts; configurations that are refused."""

import dataclasses

import laws
import numpy as np
import pytest
import tiny

from lm_jax import experiment, flags
from lm_jax.core.config import InputError, Tree
from lm_jax.data import corpora, pipeline, store, tokenizers
from lm_jax.data.clean.chain import CleanConfig
from lm_jax.data.mixture import MixtureConfig as SourcesConfig
from lm_jax.data.rows import Reads, RowsConfig
from lm_jax.data.sources import SourceConfig
from lm_jax.objectives import ObjectiveConfig, build_objective, roles
from lm_jax.objectives.base import Part
from lm_jax.objectives.causal import Causal, CausalConfig
from lm_jax.objectives.masked import Masked, MaskedConfig
from lm_jax.objectives.mixture import KEY, Mixture, MixtureConfig
from lm_jax.objectives.span import Span, SpanConfig

VOCABULARY = dataclasses.replace(
    tiny.VOCABULARY, size=1100, sentinels=tuple(range(900, 1100)), ordinary=(7, 900), pieces=("[R]", "[S]", "[X]")
)
UL2 = {
    "r3": {"name": "span", "span": {"mode": "[R]"}},
    "r8": {"name": "span", "span": {"mode": "[R]", "mean_span": 8.0}},
    "s": {"name": "prefix", "prefix": {"mode": "[S]", "rate": 0.25}},
    "x3": {"name": "span", "span": {"mode": "[X]", "rate": 0.5}},
    "x8": {"name": "span", "span": {"mode": "[X]", "rate": 0.5, "mean_span": 8.0}},
    "x64": {"name": "span", "span": {"mode": "[X]", "mean_span": 64.0}},
    "x64half": {"name": "span", "span": {"mode": "[X]", "rate": 0.5, "mean_span": 64.0}},
}


def tree(settings):
    return Tree({name: tree(value) if isinstance(value, dict) else value for name, value in settings.items()})


def mixed(parts, kind="encoder_decoder", length=64, vocabulary=VOCABULARY):
    config = ObjectiveConfig(name="mixture", mixture=MixtureConfig(parts=tree(parts)))
    return build_objective(config, vocabulary, length, kind)


@pytest.fixture(scope="module")
def stores(repository, tmp_path_factory):
    """Two sources with the golden tokenizer."""
    golden, root = repository / "tests" / "golden", tmp_path_factory.mktemp("root")
    tokenizer, paragraphs = tokenizers.load(golden / "tokenizer"), (golden / "text.txt").read_text().split("\n\n")
    prepared = {}
    for name, part in (("one", paragraphs[::2]), ("two", paragraphs[1::2])):
        (root / f"{name}.txt").write_text("\n\n".join(part))
        source = SourceConfig(path=str(root / f"{name}.txt"), document="paragraph")
        prepared[name] = store.prepare(root, source, CleanConfig(), tokenizer)
    sources = SourcesConfig(sources=Tree({name: Tree(path=name) for name in prepared}))
    return corpora.Stores(sources, prepared)


def make_rows(corpus, reads, split="train", plan="auto"):
    config = RowsConfig(plan=plan)
    return corpora.make_rows(corpus, config=config, split=split, reads=reads, validation=0.2, seed=3, lanes=8)


READS = Reads(
    plan="mixture",
    length=40,
    parts=Tree(
        a=Reads(plan="packed", length=40, overlap=1),
        b=Reads(plan="packed", length=10, share=2.0),
        c=Reads(plan="examples", length=20, share=5.0),
    ),
)


def seen(row, rng):
    return {"part": np.array("abc".index(str(row["part"]))), "first": row["tokens"][0], "size": len(row["tokens"])}


def test_parts_have_their_shares_their_epochs_and_their_lengths_on_one_text(stores):
    rows = make_rows(stores.stores["one"], READS)
    assert rows.names == ("a", "b", "c")
    slots = np.arange(4000)
    parts = rows.assign(slots)[0]
    filled = np.cumsum(parts[:, None] == np.arange(3), axis=0)
    assert np.abs(filled - (slots[:, None] + 1) * np.array([1, 2, 5]) / 8).max() < 1
    for number, (name, plan) in enumerate(zip(rows.names, rows.parts, strict=True)):
        chosen = [each for each, part in zip(rows.filling(slots, 7), parts, strict=True) if part == number]
        count = len(plan)
        assert [epoch for _, _, epoch, _ in chosen] == [index // count for index in range(len(chosen))]
        for start in range(0, len(chosen) - count + 1, count):
            assert sorted(index for *_, index in chosen[start : start + count]) == list(range(count))
        assert len({each[1] for each in chosen}) == 1 and all(each[0].name == name for each in chosen)
    sizes = {
        str(row["part"]): len(row["tokens"])
        for each, _, epoch, index in rows.filling(slots[:64], 7)
        for row in [each.row(index, epoch, np.random.default_rng(0))]
    }
    assert (sizes["a"], sizes["b"]) == (40, 10) and sizes["c"] <= 20


def test_a_batch_depends_on_seed_and_step_alone_and_a_part_on_its_name(stores):
    rows = make_rows(stores.stores["one"], READS)
    stream = pipeline.batches(rows, seen, seed=5, batch=8, start=3, threads=1)
    for step in (3, 4, 5):
        expected = pipeline.batch_at(rows, seen, step, seed=5, batch=8)
        assert all(np.array_equal(value, expected[name]) for name, value in next(stream).items())
    others = dataclasses.replace(READS, parts=Tree({"b": READS.parts["b"], "z": READS.parts["c"]}))
    fewer = make_rows(stores.stores["one"], others)
    of_b = lambda rows, count: [each[1:] for each in rows.filling(np.arange(count), 5) if each[0].name == "b"]
    assert of_b(rows, 400)[:60] == of_b(fewer, 400)[:60]


def test_sources_contain_the_parts_and_evaluation_reads_every_row_once(stores):
    rows = make_rows(stores, READS)
    assert rows.names == ("one", "two") and rows.parts[0].names == ("a", "b", "c")
    batches = [pipeline.batch_at(rows, seen, step, seed=1, batch=64) for step in range(10)]
    parts = np.concatenate([batch["part"] for batch in batches])
    # Each source is within one slot of each part's share.
    assert np.abs(np.bincount(parts) - 640 * np.array([1, 2, 5]) / 8).max() <= 4
    held_out = make_rows(stores, READS, "validation")
    batches = list(pipeline.ordered(held_out, seen, batch=len(held_out)))
    sizes = np.bincount(batches[0]["part"])
    plans = [plan for source in held_out.parts for plan in source.parts]
    assert sizes.tolist() == [len(plans[index]) + len(plans[index + 3]) for index in range(3)]
    with pytest.raises(InputError, match="plan is streams, in which every row continues"):
        make_rows(stores, READS, plan="streams")


@pytest.mark.parametrize("kind", ["encoder_decoder", "decoder"])
def test_ul2_mixes_seven_denoisers_in_one_shape(kind, stores):
    objective = mixed(UL2, kind, length=128)
    rows = make_rows(stores, objective.reads)
    batch = pipeline.batch_at(rows, objective.features, 0, seed=0, batch=70)
    for name, field in objective.spec.items():
        assert batch[name].shape == (70, *field.shape) and batch[name].dtype == field.dtype
    modes = batch["source"][:, 0] if kind == "encoder_decoder" else batch["tokens"][:, 0]
    # Each part is less than one row from its share.
    assert (np.abs(np.bincount(modes) - np.array([20, 10, 40])) < [2, 1, 4]).all()
    assert objective.work[0].length == objective.spec["tokens"].shape[0]
    part = next(iter(objective.parts.values()))
    row = {"tokens": np.arange(7, 7 + part.reads.length), "part": "r3"}
    ours, theirs = objective.features(row, np.random.default_rng(0)), part.features(row, np.random.default_rng(0))
    for name, values in theirs.items():
        inside = tuple(map(slice, values.shape))
        np.testing.assert_array_equal(ours[name][inside], values)
        assert ours[name].sum() == values.sum(), "padding is 0"


def test_a_decoder_mixes_causal_rows_with_denoising():
    objective = mixed({"lm": {"name": "causal"}, "spans": {"name": "span"}}, "decoder", length=32)
    assert roles(ObjectiveConfig(name="mixture", mixture=MixtureConfig(parts=tree({"a": {"name": "causal"}}))))
    assert objective.roles["model"].kinds == ("decoder",)
    rng = np.random.default_rng(0)
    causal = objective.features({"tokens": laws.text(33), "part": "lm"}, rng)
    span = objective.features({"tokens": laws.text(objective.reads.parts["spans"].length), "part": "spans"}, rng)
    assert causal["prefix"] == 0 and causal["weights"].all() and span["prefix"] > 0
    assert {name: value.shape for name, value in causal.items()} == {name: value.shape for name, value in span.items()}


def test_masked_rows_without_pairs_do_not_count_as_pairs():
    parts = {
        "pairs": Masked(MaskedConfig(rate=0.3), tiny.VOCABULARY, 16),
        "text": Masked(MaskedConfig(next_sentence=False), tiny.VOCABULARY, 16),
    }
    objective = Mixture(parts, dict.fromkeys(parts, 1.0), tiny.VOCABULARY.pad)
    assert objective.terms == ("masked_lm_loss", "next_sentence_loss")
    pair = {"first": laws.text(4), "second": laws.text(5), "is_next": np.int32(1), "part": "pairs"}
    rows = [pair, {"tokens": laws.text(9), "part": "text"}, pair]
    batch = tiny.stacked([objective.features(row, np.random.default_rng(0)) for row in rows])
    assert batch["pairs"].tolist() == [1, 0, 1] and objective.weights(batch)["pairs"] == 2
    assert batch["weights"].shape[1] == max(part.predictions for part in parts.values())


def test_a_mixture_keeps_the_laws_and_its_loss_is_the_mean_over_the_tokens_of_all_parts(tmp_path):
    setting = tiny.setting("mixture")
    rows = [
        {
            "tokens": laws.text(count),
            "sentences": np.array([count // 2]),
            "part": ("denoise", "prefix", "span")[count % 3],
        }
        for count in (3, 4, 5, 6, 7, 8, 9, 10)
    ]
    case = laws.case(setting.objective, {}, rows, models=dict(setting.models.models), rate=0.5)
    laws.check(case, tmp_path)

    def compute(params, batch):
        models = case.models.bind({"model": params})
        loss = case.objective.loss(models, Part(batch=batch, weights=case.objective.weights(batch)))
        return loss.total, models["model"].readout(models["model"](case.objective.inputs(batch)).hidden)

    loss, logits = tiny.run_once(compute, setting.params["model"], case.batch)
    logits = np.asarray(logits, np.float64)
    normalised = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    label = np.take_along_axis(normalised, case.batch["targets"][..., None], -1)[..., 0]
    # Tolerance: float32 logits.
    assert float(loss) == pytest.approx(-(label * case.batch["weights"]).sum() / case.batch["weights"].sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, f"{KEY} is empty; name the objectives to mix"),
        ({"a": {"name": "span"}, "b": {"name": "masked"}}, f"{KEY}.a and {KEY}.b train different models; leave"),
        ({"a": {"name": "span"}, "b": {"name": "causal"}}, f"{KEY}.b and {KEY}.a do not fit into one batch"),
        ({"a": {"name": "mixture"}}, f"{KEY}.a.name is 'mixture', but a part cannot be a mixture"),
        ({"a": {"name": "spam"}}, f"{KEY}.a.name is 'spam'; expected one of answer, .*; did you mean span"),
        ({"a": {"name": "span", "weight": 0.0}}, f"{KEY}.a.weight is 0.0; expected a number above 0"),
        ({"a": {"name": "span", "span": {"rat": 0.1}}}, f"unknown key {KEY}.a.span.rat; did you mean rate"),
        ({"a": {"name": "span", "span": {"rate": 2.0}}}, f"{KEY}.a.span.rate is 2.0; expected a share"),
        ({"a": {"name": "span", "span": {"mode": "[Z]"}}}, f"{KEY}.a.span.mode is '\\[Z\\]', which is no piece"),
        ({"a b": {"name": "span"}}, "expected a name of letters"),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_one_line(parts, message):
    with pytest.raises(InputError, match=message) as caught:
        mixed(parts)
    assert "\n" not in str(caught.value)


@dataclasses.dataclass(frozen=True)
class Smoothed(Span):
    smoothing: float = 0.1


def test_parts_with_other_losses_or_features_are_refused():
    span = Span(SpanConfig(), VOCABULARY, 64)
    with pytest.raises(InputError, match="compute their loss with different settings, 0.1 and 0.0"):
        Mixture({"a": span, "b": Smoothed(SpanConfig(), VOCABULARY, 64)}, {"a": 1.0, "b": 1.0}, 0)
    with pytest.raises(InputError, match="do not fit into one batch, because their features source"):
        Mixture({"a": span, "b": Causal(CausalConfig(), VOCABULARY, 64)}, {"a": 1.0, "b": 1.0}, 0)
    with pytest.raises(InputError, match=r"config\.objective\.weight is 2\.0, but only the parts of a mixture"):
        build_objective(ObjectiveConfig(weight=2.0), VOCABULARY, 64, "decoder")


def test_flags_override_parts_and_add_them():
    recipe = flags.load_recipe("t5:tiny")
    words = [
        "--config.objective.name=mixture",
        f"--{KEY}.r.weight=2",
        f"--{KEY}.r.name=span",
        f"--{KEY}.s.name=prefix",
        f"--{KEY}.s.prefix.rate=0.25",
    ]
    config, changed = flags.configure(recipe, words)
    parts = experiment.parse(config).objective.parts()
    assert (parts["r"].weight, parts["r"].name, parts["s"].prefix.rate) == (2.0, "span", 0.25)
    assert any(line.startswith(f"{KEY}.r.weight") for line in changed)
    again = experiment.parse(experiment.as_json(experiment.parse(config)))
    assert again == experiment.parse(config)
    for word, message in (
        (f"--{KEY}.r.wieght=2", "did you mean weight"),
        (f"--{KEY}.r.mixture.parts.x.name=span", "x"),
    ):
        with pytest.raises(InputError, match=message):
            flags.configure(recipe, [*words, word])
