"""The table of metrics, `compute` and standard errors."""

import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.evaluate.metrics import METRICS, compute, standard_error

# Predictions, references and labels of each kind.
ROWS = {
    "label": ([1, 0, 1, 0, 1, 1], [1, 0, 0, 1, 1, 0], ["Other", "Cause-Effect(e1,e2)"]),
    "labels": ([[0], [0, 1], []], [[0], [1], [1]], ["a", "b"]),
    "number": ([1.0, 2.0, 4.0], [1.0, 3.0, 2.0], []),
    "tags": ([["B-X", "O"], ["B-Y", "I-Y"]], [["B-X", "O"], ["O", "B-Y"]], []),
    "spans": (["yes", "no", ""], [["yes"], ["never", "no no"], []], []),
    "text": (["a dog runs away fast", "no cats are here"], [["a dog ran away"], ["no cats are there"]], []),
    "ranking": ([[1, 2], [3, 4]], [{2}, {3, 5}], []),
}
LOWEST = {"pearson": -1, "spearman": -1, "matthews": -1}
HIGHEST = {"bleu": 100, "chrf": 100, "mse": np.inf, "mae": np.inf}
OTHERS = {
    "entity_f1": ["entity_precision", "entity_recall", "entity_f1"],
    "entity_partial": ["entity_partial_precision", "entity_partial_recall", "entity_partial_f1"],
    "entities_by_type": ["X_f1", "Y_f1"],
}
EACH = [(kind, name) for kind, metrics in METRICS.items() for name in metrics]


@pytest.mark.parametrize("kind, name", EACH)
def test_values_are_floats_of_their_range_under_the_metrics_name(kind, name):
    values = compute(kind, [name], *ROWS[kind])
    assert list(values) == OTHERS.get(name, [name])
    assert all(type(value) is float for value in values.values())
    assert all(LOWEST.get(name, 0) <= value <= HIGHEST.get(name, 1) for value in values.values())


def test_several_metrics_are_computed_at_once():
    predictions, references, labels = ROWS["label"]
    values = compute("label", ["accuracy", "f1"], predictions, references, labels)
    assert values == pytest.approx({"accuracy": 1 / 2, "f1": 4 / 7})


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(InputError, match="a metric of label is 'acuracy'; expected one of .*; did you mean accuracy?"):
        compute("label", ["acuracy"], *ROWS["label"])
    with pytest.raises(InputError, match="kind is 'span'; .*did you mean spans?"):
        compute("span", ["exact_match"], *ROWS["spans"])
    with pytest.raises(InputError, match="a value of tags is 'entity_recal'; .*did you mean entity_recall?"):
        standard_error("tags", "entity_recal", *ROWS["tags"])


@pytest.mark.parametrize("kind", METRICS)
def test_no_rows_and_different_numbers_of_rows_are_refused(kind):
    name = next(iter(METRICS[kind]))
    predictions, references, labels = ROWS[kind]
    for function in (lambda *rows: compute(kind, [name], *rows), lambda *rows: standard_error(kind, name, *rows)):
        with pytest.raises(InputError, match=f"no rows to score; metrics of {kind} need at least one"):
            function([], [], labels)
        with pytest.raises(ValueError, match=f"{len(predictions)} predictions and {len(references) - 1} references"):
            function(predictions, references[1:], labels)


@pytest.mark.parametrize("kind, name", [each for each in EACH if each[1] != "entities_by_type"])
def test_standard_errors_are_those_of_values_of_drawn_rows(kind, name):
    predictions, references, labels = ROWS[kind]
    names = OTHERS.get(name, [name])
    random, values = np.random.default_rng(3), []
    for _ in range(5):
        drawn = random.integers(len(references), size=len(references))
        rows = [predictions[row] for row in drawn], [references[row] for row in drawn]
        values.append(compute(kind, [name], *rows, labels))
    for each in names:
        error = standard_error(kind, each, predictions, references, labels, samples=5, seed=3)
        assert error == pytest.approx(np.std([value[each] for value in values], ddof=1), abs=1e-12)


def test_the_standard_error_of_a_mean_approaches_that_of_the_normal_distribution():
    predictions, references = [0] * 400, [0] * 300 + [1] * 100
    error = standard_error("label", "accuracy", predictions, references, ["a", "b"], samples=400)
    # sqrt(0.75 * 0.25 / 400), and the standard deviation of 400 samples is off by 1/sqrt(800), 3.5 %; three times that.
    assert error == pytest.approx(0.02165, rel=0.11)


def test_the_seed_decides_the_samples():
    errors = [standard_error("spans", "answer_f1", *ROWS["spans"], samples=10, seed=seed) for seed in (0, 0, 1)]
    assert errors[0] == errors[1] != errors[2]
    with pytest.raises(InputError, match="samples is 1; expected at least 2"):
        standard_error("spans", "answer_f1", *ROWS["spans"], samples=1)
