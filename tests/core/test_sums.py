"""Sums are merged by addition and divided last."""

import numpy as np

from lm_jax.core.sums import Sum, add, means


def test_the_mean_over_uneven_parts_is_the_mean_of_all_values():
    values = np.arange(10.0)
    parts = [Sum(total=part.sum(), weight=float(len(part))) for part in (values[:3], values[3:])]
    assert (parts[0] + parts[1]).mean() == values.mean()
    assert np.mean([part.mean() for part in parts]) != values.mean()


def test_a_sum_without_weight_has_a_mean_of_zero():
    assert Sum(total=0.0, weight=0.0).mean() == 0.0


def test_names_that_only_one_side_has_are_included():
    left = {"loss": Sum(total=1.0, weight=1.0), "left": Sum(total=2.0, weight=1.0)}
    right = {"loss": Sum(total=5.0, weight=1.0), "right": Sum(total=4.0, weight=1.0)}
    assert means(add(left, right)) == {"loss": 3.0, "left": 2.0, "right": 4.0}
