"""Metrics of labels, sets of labels, numbers and rankings."""

import sys
import warnings

import numpy as np
import pytest
from sklearn import metrics as sklearn

from lm_jax.core.config import InputError
from lm_jax.evaluate.metrics import METRICS, compute

NAMES = ["negative", "neutral", "positive"]
RELATIONS = ["Other", "Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Message-Topic(e1,e2)", "Message-Topic(e2,e1)"]


def one(kind, name, predictions, references, labels=()):
    return compute(kind, [name], predictions, references, list(labels))[name]


def test_values_of_labels_by_hand():
    predictions, references = [0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0]
    assert one("label", "accuracy", predictions, references, NAMES) == pytest.approx(4 / 6)
    assert one("label", "micro_f1", predictions, references, NAMES) == pytest.approx(4 / 6)
    # F1 of the three labels: 2/4, 4/5 and 2/3; they occur 2, 3 and 1 times.
    assert one("label", "macro_f1", predictions, references, NAMES) == pytest.approx((1 / 2 + 4 / 5 + 2 / 3) / 3)
    expected = (2 * 1 / 2 + 3 * 4 / 5 + 2 / 3) / 6
    assert one("label", "weighted_f1", predictions, references, NAMES) == pytest.approx(expected)


def test_binary_f1_counts_the_second_label():
    # 1 true positive, 2 predicted, 3 true; Matthews: (1 * 1 - 1 * 2) / sqrt(2 * 3 * 3 * 2).
    predictions, references = [1, 1, 0, 0, 0], [1, 0, 1, 1, 0]
    assert one("label", "f1", predictions, references, NAMES[:2]) == pytest.approx(2 / 5)
    assert one("label", "matthews", predictions, references, NAMES[:2]) == pytest.approx(-1 / 6)
    with pytest.raises(InputError, match="f1 needs two labels, .* not 3; use macro_f1"):
        one("label", "f1", predictions, references, NAMES)


def test_a_label_that_never_occurs_does_not_lower_macro_f1():
    assert one("label", "macro_f1", [0, 1], [0, 1], NAMES) == 1.0


@pytest.mark.parametrize("predictions, references", [([1, 1, 1], [1, 1, 1]), ([0, 0, 0], [0, 1, 2]), ([0], [2])])
@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "micro_f1", "weighted_f1", "matthews"])
def test_constant_predictions_give_no_warning(name, predictions, references):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = one("label", name, predictions, references, NAMES)
    assert value == np.mean(np.equal(predictions, references)) or name != "accuracy"
    assert np.isfinite(value) and (name != "matthews" or value == 0.0)


def test_relation_f1_by_hand():
    references = [1, 1, 2, 3, 4, 0, 0, 3]
    predictions = [1, 2, 2, 3, 1, 0, 3, 0]
    # Cause-Effect: 2 correct, 4 predicted (one with the wrong direction), 3 true. Message-Topic: 1, 2 and 3.
    expected = (4 / 7 + 2 / 5) / 2
    assert one("label", "relation_f1", predictions, references, RELATIONS) == pytest.approx(expected)


def test_relation_f1_is_that_of_the_official_scorer():
    uniform = np.random.RandomState(0).random_sample
    references = (uniform(300) * len(RELATIONS)).astype(int)
    predictions = np.where(uniform(300) < 0.3, (uniform(300) * len(RELATIONS)).astype(int), references)
    value = one("label", "relation_f1", predictions.tolist(), references.tolist(), RELATIONS)
    # Printed by the part of semeval2010_task8_scorer-v1.2.pl that computes the official score.
    assert 100 * value == pytest.approx(74.5554320645, abs=1e-8)


def test_relation_f1_ignores_relations_without_references():
    # As the scorer does: the mean is over the relations of the answer key.
    assert one("label", "relation_f1", [1, 3, 0], [1, 0, 0], RELATIONS) == 1.0
    assert one("label", "relation_f1", [1, 0], [0, 0], RELATIONS) == 0.0
    with pytest.raises(InputError, match="relation_f1 needs the label Other"):
        one("label", "relation_f1", [0], [0], NAMES)


@pytest.mark.parametrize(
    "ids, message", [([0, 3], r"predictions\[1\] is 3; expected a label id below 3"), ([0, -1], "is -1")]
)
def test_ids_without_a_label_are_refused(ids, message):
    with pytest.raises(InputError, match=message):
        one("label", "accuracy", ids, [0, 0], NAMES)
    with pytest.raises(InputError, match="predictions begins with 0.5; expected label ids"):
        one("label", "accuracy", [0.5, 0.5], [0, 0], NAMES)


def test_sets_of_labels_by_hand():
    predictions, references = [[0, 1], [], [2]], [[1, 0], [1], [1, 2]]
    assert one("labels", "exact", predictions, references, NAMES) == pytest.approx(1 / 3)
    # Together 3 correct, 3 predicted, 5 true; F1 of the labels: 1, 1/2 and 1.
    assert one("labels", "micro_f1", predictions, references, NAMES) == pytest.approx(6 / 8)
    assert one("labels", "macro_f1", predictions, references, NAMES) == pytest.approx((1 + 1 / 2 + 1) / 3)


def test_sets_of_two_labels_are_not_taken_for_a_binary_task():
    assert one("labels", "micro_f1", [[], []], [[], [1]], NAMES[:2]) == 0.0
    assert one("labels", "exact", [[], []], [[], [1]], NAMES[:2]) == 0.5
    with pytest.raises(InputError, match="need at least two labels, not 1"):
        one("labels", "micro_f1", [[], []], [[], [0]], NAMES[:1])


def test_numbers_by_hand():
    predictions, references = [1.0, 2.0, 3.0, 10.0], [2.0, 4.0, 6.0, 8.0]
    assert one("number", "mse", predictions, references) == pytest.approx((1 + 4 + 9 + 4) / 4)
    assert one("number", "mae", predictions, references) == pytest.approx((1 + 2 + 3 + 2) / 4)
    assert one("number", "spearman", predictions, references) == pytest.approx(1.0)
    # Deviations (-3, -2, -1, 6) and (-3, -1, 1, 3): 28 / sqrt(50 * 20).
    assert one("number", "pearson", predictions, references) == pytest.approx(28 / 1000**0.5)
    assert one("number", "pearson", [-each for each in predictions], references) == pytest.approx(-28 / 1000**0.5)


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@pytest.mark.parametrize(
    "predictions, references", [([2.0, 2.0], [1.0, 3.0]), ([1.0, 3.0], [2.0, 2.0]), ([1.0], [2.0])]
)
def test_a_constant_side_has_correlation_zero_without_a_warning(name, predictions, references):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert one("number", name, predictions, references) == 0.0


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match=r"predictions\[1\] is nan; expected finite numbers"):
        one("number", "mse", [0.0, float("nan")], [0.0, 1.0])


def test_rankings_by_hand():
    ranked, relevant = [[3, 1, 2], [5, 6, 7]], [{1, 2, 9}, {5}]
    assert one("ranking", "recall_at_1", ranked, relevant) == pytest.approx((0 + 1) / 2)
    assert one("ranking", "recall_at_10", ranked, relevant) == pytest.approx((2 / 3 + 1) / 2)
    assert one("ranking", "mrr", ranked, relevant) == pytest.approx((1 / 2 + 1) / 2)
    assert one("ranking", "map", ranked, relevant) == pytest.approx(((1 / 2 + 2 / 3) / 3 + 1) / 2)
    gain = 1 / np.log2([2, 3, 4])
    assert one("ranking", "ndcg_at_10", ranked, relevant) == pytest.approx(((gain[1] + gain[2]) / gain.sum() + 1) / 2)
    assert compute("ranking", list(METRICS["ranking"]), [[1]], [{2}], []) == dict.fromkeys(METRICS["ranking"], 0.0)


def test_rankings_of_all_ids_score_as_in_scikit_learn():
    random = np.random.default_rng(0)
    scores = random.normal(size=(20, 30))
    relevance = random.random((20, 30)) < 0.2
    relevance[:, 0] = True
    ranked = np.argsort(-scores, axis=1).tolist()
    relevant = [set(np.flatnonzero(row).tolist()) for row in relevance]
    expected = sklearn.ndcg_score(relevance, scores, k=10)
    assert one("ranking", "ndcg_at_10", ranked, relevant) == pytest.approx(expected)
    expected = sklearn.label_ranking_average_precision_score(relevance, scores)
    assert one("ranking", "map", ranked, relevant) == pytest.approx(expected)


def test_rankings_without_relevant_ids_or_with_one_twice_are_refused():
    with pytest.raises(InputError, match=r"references\[0\] is empty"):
        one("ranking", "map", [[1]], [set()])
    with pytest.raises(InputError, match=r"predictions\[1\] ranks an id twice"):
        one("ranking", "mrr", [[1], [2, 2]], [{1}, {2}])


def test_metrics_that_need_scikit_learn_say_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(InputError, match=r"macro_f1 needs scikit-learn; pip install 'lm_jax\[tasks\]'"):
        one("label", "macro_f1", [0], [0], NAMES)
