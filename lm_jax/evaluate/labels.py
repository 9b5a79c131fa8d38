"""Metrics of labels, sets of labels, numbers and rankings."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lm_jax.core.config import InputError
from lm_jax.evaluate.additive import Additive, Metric, library, mean, precision_recall_f1


def _sklearn(name: str) -> Any:
    return library("sklearn.metrics", "scikit-learn", name)


def _ids(ids: Sequence[Any], labels: Sequence[str], what: str) -> Int[np.ndarray, " rows"]:
    array = np.asarray(ids)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(f"{what} begins with {ids[0]!r}; expected label ids, which are integers")
    bad = np.flatnonzero((array < 0) | (array >= len(labels)))
    if len(bad):
        raise InputError(f"{what}[{bad[0]}] is {array[bad[0]]}; expected a label id below {len(labels)}")
    return array


def _of_label(name: str, score: Callable[[Any, np.ndarray, np.ndarray, Sequence[str]], float]) -> Metric:
    """A metric of label ids; `score` gets scikit-learn's metrics, the references, the predictions and the labels."""

    def metric(predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]) -> dict[str, float]:
        ours, true = _ids(predictions, labels, "predictions"), _ids(references, labels, "references")
        return {name: float(score(_sklearn(name), true, ours, labels))}

    return metric


def _binary_f1(metrics: Any, true: np.ndarray, ours: np.ndarray, labels: Sequence[str]) -> float:
    if len(labels) != 2:
        raise InputError(f"f1 needs two labels, of which the second is positive, not {len(labels)}; use macro_f1")
    return metrics.f1_score(true, ours, zero_division=0)


def _average_f1(average: str, metrics: Any, true: np.ndarray, ours: np.ndarray, labels: Sequence[str]) -> float:
    """F1 over the labels that occur in the references or the predictions, as is scikit-learn's default."""
    return metrics.f1_score(true, ours, average=average, zero_division=0)


def _matthews(metrics: Any, true: np.ndarray, ours: np.ndarray, labels: Sequence[str]) -> float:
    # A confusion matrix of a single label makes scikit-learn warn.
    if np.ptp(true) == 0 or np.ptp(ours) == 0:
        return 0.0
    return metrics.matthews_corrcoef(true, ours)


def _relation(label: str) -> str:
    """Returns the name of a relation without its direction: Cause-Effect for Cause-Effect(e1,e2)."""
    return label.removesuffix("(e1,e2)").removesuffix("(e2,e1)")


def _relation_counts(predictions: Any, references: Any, labels: Sequence[str]) -> Float[np.ndarray, "rows counts"]:
    """Returns for each row whether each relation is correct, predicted and true: [rows, 3 * relations].

    A prediction with the wrong direction counts as predicted, not as correct.
    """
    if "Other" not in labels:
        raise InputError(f"relation_f1 needs the label Other, as in SemEval-2010 task 8; labels: {', '.join(labels)}")
    ours, true = _ids(predictions, labels, "predictions"), _ids(references, labels, "references")
    relations = sorted({_relation(label) for label in labels} - {"Other"})
    belongs = np.array([[_relation(label) == relation for relation in relations] for label in labels])
    predicted, actual = belongs[ours], belongs[true]
    return np.concatenate([actual & (ours == true)[:, None], predicted, actual], axis=1).astype(np.float64)


def _relation_f1(sums: Float[np.ndarray, " counts"]) -> dict[str, float]:
    """Returns the mean F1 of the relations that occur in the references."""
    scores = [precision_recall_f1(*counts)[2] for counts in sums.reshape(3, -1).T if counts[2]]
    return {"relation_f1": float(np.mean(scores)) if scores else 0.0}


LABEL: dict[str, Metric] = {
    "accuracy": _of_label("accuracy", lambda metrics, true, ours, labels: metrics.accuracy_score(true, ours)),
    "f1": _of_label("f1", _binary_f1),
    **{f"{each}_f1": _of_label(f"{each}_f1", functools.partial(_average_f1, each)) for each in ("macro", "micro")},
    "weighted_f1": _of_label("weighted_f1", functools.partial(_average_f1, "weighted")),
    "matthews": _of_label("matthews", _matthews),
    # The official score of SemEval-2010 task 8 (Hendrickx et al. 2010, section 4): (9+1)-way, with direction.
    "relation_f1": Additive(_relation_counts, _relation_f1),
}


def _indicators(rows: Sequence[Any], labels: Sequence[str], what: str) -> np.ndarray:
    """Returns whether each row has each label: [rows, labels]."""
    # scikit-learn takes a single column for the two classes of a binary task.
    if len(labels) < 2:
        raise InputError(f"metrics of several labels a row need at least two labels, not {len(labels)}")
    table = np.zeros((len(rows), len(labels)), int)
    for row, ids in enumerate(rows):
        if len(ids):
            table[row, _ids(ids, labels, f"{what}[{row}]")] = 1
    return table


def _of_labels(name: str, score: Callable[[Any, np.ndarray, np.ndarray], float]) -> Metric:
    def metric(predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]) -> dict[str, float]:
        ours, true = _indicators(predictions, labels, "predictions"), _indicators(references, labels, "references")
        return {name: float(score(_sklearn(name), true, ours))}

    return metric


def _labels_f1(average: str, metrics: Any, true: np.ndarray, ours: np.ndarray) -> float:
    return metrics.f1_score(true, ours, average=average, zero_division=0)


LABELS: dict[str, Metric] = {
    "micro_f1": _of_labels("micro_f1", functools.partial(_labels_f1, "micro")),
    "macro_f1": _of_labels("macro_f1", functools.partial(_labels_f1, "macro")),
    "exact": _of_labels("exact", lambda metrics, true, ours: metrics.accuracy_score(true, ours)),
}


def _of_number(name: str, score: Callable[[np.ndarray, np.ndarray], float]) -> Metric:
    def metric(predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]) -> dict[str, float]:
        arrays = [np.asarray(each, np.float64) for each in (predictions, references)]
        for what, array in zip(("predictions", "references"), arrays, strict=True):
            bad = np.flatnonzero(~np.isfinite(array))
            if len(bad):
                raise InputError(f"{what}[{bad[0]}] is {array[bad[0]]}; expected finite numbers")
        return {name: float(score(*arrays))}

    return metric


def _correlation(function: str, ours: np.ndarray, true: np.ndarray) -> float:
    """Returns the correlation coefficient, which is 0 if one side is constant."""
    if np.ptp(ours) == 0 or np.ptp(true) == 0:
        return 0.0
    return getattr(library("scipy.stats", "scipy", function), function)(ours, true).statistic


NUMBER: dict[str, Metric] = {
    "pearson": _of_number("pearson", functools.partial(_correlation, "pearsonr")),
    "spearman": _of_number("spearman", functools.partial(_correlation, "spearmanr")),
    "mse": _of_number("mse", lambda ours, true: _sklearn("mse").mean_squared_error(true, ours)),
    "mae": _of_number("mae", lambda ours, true: _sklearn("mae").mean_absolute_error(true, ours)),
}


def _of_ranking(name: str, score: Callable[[list[bool], int], float]) -> Additive:
    """A mean over rows; `score` gets whether each ranked id is relevant, and the number of relevant ids."""

    def scores(predictions: Sequence[Any], references: Sequence[Any]) -> list[float]:
        values = []
        for row, (ranked, relevant) in enumerate(zip(predictions, references, strict=True)):
            relevant = set(relevant)
            if not relevant:
                raise InputError(f"references[{row}] is empty; expected at least one relevant id")
            if len(set(ranked)) < len(ranked):
                raise InputError(f"predictions[{row}] ranks an id twice; expected each id once")
            values.append(score([each in relevant for each in ranked], len(relevant)))
        return values

    return mean(name, scores)


def _discounted(hits: Sequence[bool]) -> float:
    return sum(1 / math.log2(rank + 1) for rank, hit in enumerate(hits, 1) if hit)


def _average_precision(hits: list[bool], relevant: int) -> float:
    return sum(sum(hits[:rank]) / rank for rank, hit in enumerate(hits, 1) if hit) / relevant


RANKING: dict[str, Metric] = {
    "recall_at_1": _of_ranking("recall_at_1", lambda hits, relevant: sum(hits[:1]) / relevant),
    "recall_at_10": _of_ranking("recall_at_10", lambda hits, relevant: sum(hits[:10]) / relevant),
    "mrr": _of_ranking("mrr", lambda hits, relevant: 1 / (hits.index(True) + 1) if any(hits) else 0.0),
    # Relevance is 0 or 1; the ideal ranking has all relevant ids first. scikit-learn's ndcg_score ranks all ids.
    "ndcg_at_10": _of_ranking(
        "ndcg_at_10", lambda hits, relevant: _discounted(hits[:10]) / _discounted([True] * min(relevant, 10))
    ),
    "map": _of_ranking("map", _average_precision),
}
