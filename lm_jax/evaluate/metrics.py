"""Metrics of tasks, by the kind of their predictions.

Predictions and references of a row:

- label: a label id.
- labels: a list of label ids.
- number: a float.
- tags: the names of the tags of a sentence.
- spans: the text of an answer, "" for none; its reference is a list of acceptable texts, empty if there is no answer.
- text: a text; its reference is a list of acceptable texts.
- ranking: ids in ranked order; its reference is the set of relevant ids.

Accuracies, F1, ROUGE and the metrics of rankings are in [0, 1], correlations in [-1, 1], BLEU and chrF in [0, 100].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lm_jax.core.config import InputError, lookup
from lm_jax.evaluate import entities as tagged
from lm_jax.evaluate import labels as tables
from lm_jax.evaluate import texts
from lm_jax.evaluate.additive import Additive, Metric
from lm_jax.evaluate.entities import entities as entities
from lm_jax.evaluate.texts import signature as signature

METRICS: dict[str, dict[str, Metric]] = {
    "label": tables.LABEL,
    "labels": tables.LABELS,
    "number": tables.NUMBER,
    "tags": tagged.METRICS,
    "spans": texts.SPANS,
    "text": texts.TEXT,
    "ranking": tables.RANKING,
}

# Metrics with several values, of which none has the metric's name.
_PARTS = {
    "entity_precision": "entity_f1",
    "entity_recall": "entity_f1",
    "entity_partial_precision": "entity_partial",
    "entity_partial_recall": "entity_partial",
    "entity_partial_f1": "entity_partial",
}


def check(kind: str, names: Sequence[str], key: str) -> None:
    """Raises InputError, which names the setting `key`, if a name is no metric of a kind of predictions."""
    for name in names:
        lookup(METRICS[kind], name, key)


def compute(
    kind: str, names: Sequence[str], predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]
) -> dict[str, float]:
    """Computes metrics of a kind of prediction.

    Args:
      kind: a key of `METRICS`.
      names: keys of `METRICS[kind]`.
      predictions: one for each row, as the module describes.
      references: one for each row.
      labels: names of the labels by id; read for the kinds label and labels only.

    Returns:
      The values by name. A metric has one value of its own name, with three exceptions: entity_f1 also gives
      entity_precision and entity_recall, entity_partial gives entity_partial_precision, entity_partial_recall and
      entity_partial_f1, and entities_by_type gives TYPE_f1 for each type.

    Raises:
      InputError: unknown kind or name, no rows, a library is missing, or a prediction of another kind.
      ValueError: the numbers of predictions and references differ.

    Example:
      >>> compute("tags", ["entity_f1"], [["B-PER", "O"]], [["B-PER", "B-LOC"]], [])
      {'entity_precision': 1.0, 'entity_recall': 0.5, 'entity_f1': 0.6666666666666666}
    """
    table = _table(kind, predictions, references)
    metrics = [lookup(table, name, f"a metric of {kind}") for name in names]
    return {name: value for each in metrics for name, value in each(predictions, references, labels).items()}


def values_of(kind: str, names: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Returns the names of the values that `compute` returns.

    Raises:
      InputError: unknown kind or name.

    Example:
      >>> values_of("tags", ["entity_f1", "entities_by_type"], ["O", "B-PER", "I-PER"])
      ['entity_precision', 'entity_recall', 'entity_f1', 'PER_f1']
    """
    table, values = lookup(METRICS, kind, "kind"), []
    for name in names:
        lookup(table, name, f"a metric of {kind}")
        parts = [part for part, metric in _PARTS.items() if metric == name]
        if name == "entities_by_type":
            values += sorted({f"{label[2:]}_f1" for label in labels if label[1:2] == "-"})
        elif name == "entity_partial":
            values += parts
        else:
            values += [*parts, name]
    return values


def standard_error(
    kind: str,
    name: str,
    predictions: Sequence[Any],
    references: Sequence[Any],
    labels: Sequence[str],
    samples: int = 200,
    seed: int = 0,
) -> float:
    """Estimates the standard error of a value by a bootstrap over rows (Efron 1979).

    Args:
      kind: a key of `METRICS`.
      name: a value that `compute` returns, except those of entities_by_type.
      predictions: one for each row.
      references: one for each row.
      labels: names of the labels by id.
      samples: the number of samples, each of as many rows as there are.
      seed: of the samples; the same seed gives the same rows for every metric and model.

    Returns:
      The standard deviation of the value over the samples.

    Raises:
      InputError: as in `compute`, or fewer than two samples.
      ValueError: the numbers of predictions and references differ.

    Example:
      >>> answers = [["yes"]] * 100
      >>> error = standard_error("spans", "exact_match", ["yes"] * 80 + ["no"] * 20, answers, [])
      >>> round(error, 2)  # sqrt(0.8 * 0.2 / 100)
      0.04
    """
    table = _table(kind, predictions, references)
    choices = {each: metric for each, metric in table.items() if each not in ("entities_by_type", "entity_partial")}
    if kind == "tags":
        choices |= {each: table[metric] for each, metric in _PARTS.items()}
    metric = lookup(choices, name, f"a value of {kind}")
    if samples < 2:
        raise InputError(f"samples is {samples}; expected at least 2")
    random, rows, values = np.random.default_rng(seed), len(references), []
    statistics = metric.statistics(predictions, references, labels) if isinstance(metric, Additive) else None
    for _ in range(samples):
        drawn = random.integers(rows, size=rows)
        if isinstance(metric, Additive) and statistics is not None:
            result = metric.values(statistics[drawn].sum(axis=0))
        else:
            result = metric([predictions[row] for row in drawn], [references[row] for row in drawn], labels)
        values.append(result[name])
    return float(np.std(values, ddof=1))


def _table(kind: str, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, Metric]:
    """Returns the metrics of a kind, after a check of the number of rows."""
    table = lookup(METRICS, kind, "kind")
    if len(predictions) != len(references):
        raise ValueError(f"there are {len(predictions)} predictions and {len(references)} references")
    if not len(references):
        raise InputError(f"there are no rows to score; metrics of {kind} need at least one")
    return table
