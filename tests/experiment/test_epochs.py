"""Steps of a number of epochs, and the steps after which a run is evaluated."""

import pytest

from lm_jax.evaluate.config import EvaluateConfig
from lm_jax.experiment import epochs


@pytest.mark.parametrize(
    ("count", "rows", "batch", "expected"), [(3, 100, 32, 10), (0.1, 300, 1, 30), (0.001, 10, 8, 1), (1, 32, 32, 1)]
)
def test_steps_hold_the_epochs_and_no_step_more(count, rows, batch, expected):
    assert epochs.steps(count, rows, batch) == expected


def evaluated(rows, batch, steps, **settings):
    decides = epochs.evaluates(EvaluateConfig(**settings), rows, batch)
    return [step for step in range(1, steps + 1) if decides(step)]


def test_an_evaluation_follows_the_batch_that_ends_an_epoch_or_a_part_of_it():
    assert evaluated(100, 32, 10, per_epoch=1) == [4, 7, 10]
    assert evaluated(100, 32, 10, per_epoch=2) == [2, 4, 5, 7, 8, 10]
    # A batch of more than an epoch.
    assert evaluated(10, 32, 3, per_epoch=1) == [1, 2, 3]


def test_without_parts_of_epochs_the_interval_decides():
    assert evaluated(100, 32, 9, every=4) == [4, 8]
    assert evaluated(100, 32, 9, every=0) == []
