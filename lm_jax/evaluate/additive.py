"""Metrics that are functions of sums over rows, and the optional libraries that metrics use.

A bootstrap of such a metric adds the statistics of the drawn rows; it does not score their texts again.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from lm_jax.core.config import InputError

# (predictions, references, names of the labels by id) -> values by name.
Metric = Callable[[Sequence[Any], Sequence[Any], Sequence[str]], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Additive:
    """A metric that is a function of the sums of statistics of each row.

    Attributes:
      statistics: (predictions, references, labels) -> array [rows, statistics].
      values: sums over rows [statistics] -> values by name.
    """

    statistics: Callable[[Sequence[Any], Sequence[Any], Sequence[str]], Float[np.ndarray, "rows statistics"]]
    values: Callable[[Float[np.ndarray, " statistics"]], dict[str, float]]

    def __call__(
        self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]
    ) -> dict[str, float]:
        """Returns the values of all rows together."""
        return self.values(self.statistics(predictions, references, labels).sum(axis=0))


def mean(name: str, score: Callable[[Sequence[Any], Sequence[Any]], list[float]]) -> Additive:
    """A metric that is the mean of a score of each row.

    Args:
      name: of its value.
      score: (predictions, references) -> one number for each row.

    Example:
      >>> mean("equal", lambda left, right: [float(a == b) for a, b in zip(left, right)])([1, 2], [1, 3], [])
      {'equal': 0.5}
    """

    def statistics(predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]) -> np.ndarray:
        scores = np.array(score(predictions, references), np.float64)
        return np.stack([scores, np.ones_like(scores)], axis=1)

    return Additive(statistics, lambda sums: {name: ratio(sums[0], sums[1])})


def ratio(part: float, whole: float) -> float:
    """Returns part / whole, and 0 if the whole is 0."""
    return float(part / whole) if whole else 0.0


def precision_recall_f1(correct: float, predicted: float, true: float) -> tuple[float, float, float]:
    """Returns precision, recall and F1 of counts; each is 0 if its denominator is."""
    return ratio(correct, predicted), ratio(correct, true), ratio(2 * correct, predicted + true)


def library(module: str, package: str, what: str) -> Any:
    """Imports a module of an optional library.

    Raises:
      InputError: `package` is not installed; the message says that `what` needs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{what} needs {package}; pip install 'lm_jax[tasks]'") from error
