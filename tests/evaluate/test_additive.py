"""Metrics from sums over rows."""

import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.evaluate.additive import Additive, library, mean, precision_recall_f1


def test_the_mean_of_two_sets_of_rows_is_a_function_of_their_added_statistics():
    metric = mean("size", lambda predictions, references: [float(len(each)) for each in predictions])
    left, right = ["a", "bbb"], ["cccc", "dd", "eeeee"]
    first, second = (metric.statistics(part, part, []).sum(axis=0) for part in (left, right))
    assert metric.values(first + second) == metric(left + right, left + right, []) == {"size": 3.0}


def test_values_get_the_sums_over_rows():
    rows = np.array([[1.0, 2.0], [3.0, 4.0]])
    metric = Additive(lambda *_: rows, lambda sums: {"a": float(sums[0]), "b": float(sums[1])})
    assert metric([0, 0], [0, 0], []) == {"a": 4.0, "b": 6.0}


@pytest.mark.parametrize(
    "counts, expected",
    [((2, 4, 8), (1 / 2, 1 / 4, 1 / 3)), ((0, 0, 3), (0, 0, 0)), ((0, 0, 0), (0, 0, 0)), ((5, 5, 5), (1, 1, 1))],
)
def test_precision_recall_and_f1_of_counts(counts, expected):
    assert precision_recall_f1(*counts) == pytest.approx(expected)


def test_a_missing_library_is_named_with_the_command_that_installs_it():
    with pytest.raises(InputError, match=r"bleu needs sacrebleu; pip install 'lm_jax\[tasks\]'"):
        library("no_such_module", "sacrebleu", "bleu")
