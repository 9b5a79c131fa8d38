"""The masked language models that followed BERT: runs replaced together, sentence order, full sentences, spans."""

import dataclasses

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny
from scipy.special import erf

from lm_jax.core.config import InputError
from lm_jax.data import pipeline, plans, rows, store
from lm_jax.data.clean.chain import CleanConfig
from lm_jax.data.sources import SourceConfig
from lm_jax.data.tokenizers import TokenizerConfig
from lm_jax.objectives.base import Part
from lm_jax.objectives.choose import ChooseConfig
from lm_jax.objectives.masked import Masked, MaskedConfig

WORDS = dataclasses.replace(tiny.VOCABULARY, starts_word=np.arange(64) % 3 > 0)
# As tiny.VOCABULARY, with so many ids that a random token is never the original one.
MANY = dataclasses.replace(tiny.VOCABULARY, size=1 << 30, ordinary=(7, 1 << 30), starts_word=None)
SPANBERT = MaskedConfig(
    next_sentence=False, rate=0.3, together=True, boundary=3, choose=ChooseConfig(unit="word", run="geometric")
)
COMBINED = dataclasses.replace(SPANBERT, sentence_order=True)


def masked(vocabulary=tiny.VOCABULARY, length=128, **settings):
    return Masked(MaskedConfig(**{"next_sentence": False, **settings}), vocabulary, length)


def test_a_run_is_masked_random_or_unchanged_as_a_whole_in_shares_of_80_10_and_10():
    objective = masked(MANY, 8192, together=True, choose=ChooseConfig(run="geometric"))
    kinds = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        features = objective.features({"tokens": rng.integers(*MANY.ordinary, 8190)}, rng)
        count = int(features["weights"].sum())
        positions, labels = features["positions"][:count], features["labels"][:count]
        assert count == round(8190 * 0.15)
        tokens = features["tokens"][positions]
        kind = np.where(tokens == MANY.mask, 0, np.where(tokens == labels, 2, 1))
        # A run begins where a position is not the one after the last; runs side by side may differ.
        begins = np.diff(positions, prepend=-1) != 1
        kinds.append(np.stack([kind, begins]))
    kind, begins = np.concatenate(kinds, 1)
    shares = np.bincount(kind[begins == 1]) / begins.sum()
    # Tolerance: 4 standard errors with 8,000 runs or more.
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.02)
    # Inside a run the kind changes only where it touches another one: at most 15 % of the ends of runs.
    assert (np.diff(kind)[begins[1:] == 0] != 0).mean() < 0.05


@pytest.mark.usefixtures("untyped")
def test_segments_in_order_and_swapped_are_equally_frequent():
    objective, swapped = masked(sentence_order=True, length=16), 0
    first, second = laws.text(6), laws.text(5)
    rng = np.random.default_rng(0)
    for number in range(10_000):
        features = objective.features({"first": first, "second": second}, rng)
        swapped += int(features["swapped"])
        if number >= 400:
            continue
        tokens = features["tokens"].copy()
        count = int(features["weights"].sum())
        tokens[features["positions"][:count]] = features["labels"][:count]
        parts = (second, first) if features["swapped"] else (first, second)
        np.testing.assert_array_equal(tokens[:14], [4, *parts[0], 5, *parts[1], 5])
        np.testing.assert_array_equal(features["types"][:14], np.repeat([0, 1], [len(parts[0]) + 2, len(parts[1]) + 1]))
    # Tolerance: 5 standard errors of a share of 1/2.
    assert swapped / 10_000 == pytest.approx(0.5, abs=0.025)
    assert (objective.reads.plan, objective.reads.length) == ("consecutive", 13)
    assert objective.terms == ("masked_lm_loss", "sentence_order_loss")


def test_full_sentences_have_a_separator_between_documents_that_is_never_predicted():
    objective, eos, sep = masked(full_sentences=True, length=16, rate=0.5), tiny.VOCABULARY.eos, tiny.VOCABULARY.sep
    text = laws.text(10)
    text[[3, 9]] = eos
    for seed in range(50):
        features = objective.features({"tokens": text}, np.random.default_rng(seed))
        assert np.flatnonzero(features["tokens"] == sep).tolist() == [4, 10] and eos not in features["tokens"]
        assert not {0, 4, 10} & set(features["positions"][: int(features["weights"].sum())].tolist())
    assert (objective.reads.plan, objective.reads.length) == ("sentences", 14)


def test_the_spans_of_a_column_are_predicted_whole():
    objective = masked(choose=ChooseConfig(unit="span"), rate=0.4, length=32, text="line", spans="names")
    row = {"line": laws.text(30), "names": np.array([[2, 6, 0], [9, 11, 1], [25, 30, 0]], np.int32)}
    whole = 0
    for seed in range(200):
        features = objective.features(row, np.random.default_rng(seed))
        chosen = set(features["positions"][: int(features["weights"].sum())].tolist())
        for first, last, _ in row["names"]:
            # [CLS] moves the text by one.
            span = set(range(first + 1, last + 1))
            assert span <= chosen or not span & chosen
            whole += span <= chosen
    assert 100 < whole < 400
    assert (objective.reads.plan, dict(objective.reads.columns)) == ("columns", {"line": 30, "names": 0})


def test_boundaries_are_the_visible_tokens_next_to_a_span():
    objective = masked(WORDS, 64, **{**dataclasses.asdict(SPANBERT), "choose": SPANBERT.choose})
    for seed in range(100):
        row = {"tokens": laws.text(62, seed)}
        features = objective.features(row, np.random.default_rng(seed))
        count = int(features["weights"].sum())
        positions = features["positions"][:count]
        for index, position in enumerate(positions.tolist()):
            before, after = int(features["before"][index]), int(features["after"][index])
            assert before < position < after and not {before, after} & set(positions.tolist())
            assert set(range(before + 1, after)) <= set(positions.tolist())
            far = position - before - 1 >= 3
            assert features["boundary_weights"][index] == (not far)
            assert features["distances"][index] == (0 if far else position - before - 1)
        assert not features["boundary_weights"][count:].any()


@pytest.fixture(scope="module")
def golden_store(tmp_path_factory, repository):
    source = SourceConfig(path=str(repository / "tests" / "golden" / "text.txt"), document="paragraph")
    return store.prepare(tmp_path_factory.mktemp("store"), source, CleanConfig(), TokenizerConfig(kind="bytes"))


@pytest.mark.parametrize("settings", [{"next_sentence": True}, {}])
def test_static_rows_are_the_same_in_every_round_of_versions_and_dynamic_ones_differ(golden_store, settings):
    def epochs(static):
        objective = masked(MANY, 64, static=static, **settings)
        request = rows.Request(
            tokens=golden_store, config=rows.RowsConfig(), split="train", reads=objective.reads, validation=0.0
        )
        plan = plans.make(request)
        count = min(len(plan), 40)
        order = [plan.filling(np.arange(len(plan)) + epoch * len(plan), 3) for epoch in range(5)]
        return [
            [
                objective.features(each.row(index, number, rng), rng)
                for each, seed, number, index in sorted(filled, key=lambda row: row[3])[:count]
                for rng in [pipeline.order.generator(seed, number, index)]
            ]
            for filled in order
        ], [[row[3] for row in filled] for filled in order]

    same = lambda a, b: all(np.array_equal(a[name], b[name]) for name in a)
    static, order = epochs(2)
    assert order[0] != order[2], "the order of the rows still changes"
    assert all(map(same, static[0], static[2])) and all(map(same, static[1], static[3]))
    assert not any(map(same, static[0], static[1])) and not any(map(same, static[0][1:], static[0]))
    dynamic, _ = epochs(0)
    assert not any(map(same, dynamic[0], dynamic[2]))


@pytest.fixture(scope="module")
def combined():
    """A case with spans, boundaries and sentence order."""
    pairs = [{"first": laws.text(3 + count, 1), "second": laws.text(count, 2)} for count in (2, 9, 5, 9, 3, 9, 8, 4)]
    over = {**tiny.STILL, "boundary": 3, "boundary_width": 6}
    config = tiny.config("bert", over=over)
    return laws.case(Masked(COMBINED, WORDS, 24), {"model": config}, pairs, rate=0.1)


def test_spans_boundaries_and_sentence_order_keep_the_laws(combined, tmp_path):
    laws.check(combined, tmp_path, fall=0.9)


def test_the_loss_is_that_of_the_papers_equations(combined):
    batch, params = {**combined.batch}, tiny.random_params(combined.models.shapes)
    objective, bound = combined.objective, combined.models.bind(params)

    def run(batch):
        hidden = bound["model"](objective.inputs(batch)).hidden
        return hidden, objective.loss(bound, Part(batch=batch, weights=objective.weights(batch)))

    hidden, loss = tiny.run_once(run, jax.tree.map(jnp.asarray, batch))
    tree = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["model"])
    hidden = np.asarray(hidden, np.float64)
    gelu = lambda x: x * (1 + erf(x / 2**0.5)) / 2
    affine = lambda x, at: x @ at["kernel"] + at.get("bias", 0)

    def norm(x, at):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12) * at["scale"] + at["bias"]

    def losses(logits, labels):
        logits = logits - logits.max(-1, keepdims=True)
        return np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, labels[..., None], -1)[..., 0]

    at = lambda name: np.take_along_axis(hidden, batch[name][..., None], 1)
    vocab = lambda states: states @ tree["token"]["embedding"].T + tree["head"]["bias"]
    mean = lambda values, weights: (values * weights).sum() / weights.sum()
    head, pair, inside = tree["head"], tree["pair"], tree["boundary"]
    states = norm(gelu(affine(at("positions"), head["transform"])), head["norm"])
    expected = {"masked_lm_loss": mean(losses(vocab(states), batch["labels"]), batch["weights"])}
    scores = affine(np.tanh(affine(hidden[:, 0], pair["pooler"])), pair["out"])
    expected["sentence_order_loss"] = losses(scores, batch["swapped"]).mean()
    # Equation 1: W1 multiplies both boundaries and the position side by side.
    first = np.concatenate([inside[name]["kernel"] for name in ("before", "after", "at")])
    sides = np.concatenate([at("before"), at("after"), inside["position"][batch["distances"]]], -1)
    states = norm(gelu(sides @ first + inside["before"]["bias"]), inside["norm"])
    states = norm(gelu(affine(states, inside["out"])), inside["out_norm"])
    expected["boundary_loss"] = mean(losses(vocab(states), batch["labels"]), batch["boundary_weights"])
    for name, value in expected.items():
        assert float(loss.metrics[name].total / loss.metrics[name].weight) == pytest.approx(value, rel=1e-5), name
    assert float(loss.total) == pytest.approx(sum(expected.values()), rel=1e-5)
    assert objective.terms == ("masked_lm_loss", "sentence_order_loss", "boundary_loss")


def test_the_model_and_the_objective_predict_equally_long_spans(combined):
    other = Masked(dataclasses.replace(COMBINED, boundary=5), WORDS, 24)
    configs = {"model": combined.models.models["model"].module.config}

    combined.objective.check(configs)
    with pytest.raises(InputError, match=r"masked\.boundary is 5, but config\.model\.boundary is 3"):
        other.check(configs)


def test_rows_have_one_form():
    with pytest.raises(InputError, match="sets next_sentence and sentence_order, .*next_sentence=false"):
        MaskedConfig(sentence_order=True)
    with pytest.raises(InputError, match=r"sets full_sentences and choose\.unit=span"):
        MaskedConfig(next_sentence=False, full_sentences=True, choose=ChooseConfig(unit="span"))
