"""The best evaluation, from metrics.jsonl and best.json alone, whenever a run was killed."""

import json
import math

import jax.numpy as jnp
import pytest

from lm_jax.core.config import InputError
from lm_jax.train import best, metrics
from lm_jax.train.best import Best
from lm_jax.train.checkpoint import Checkpointer

VALUES = {10: 0.5, 20: 0.7, 30: 0.6, 40: 0.7}


@pytest.fixture
def run(tmp_path):
    """A run of five evaluations, whose checkpoints 20, 30 and 40 exist and whose best is marked to be 20."""
    lines = [{"step": step, "val/accuracy": value, "val/loss": 1 - value / 2} for step, value in VALUES.items()]
    lines += [{"step": 50, "val/accuracy": "nan", "val/loss": 0.1}, {"step": 50, "train/loss": 2.0}]
    (tmp_path / metrics.FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with Checkpointer(tmp_path / "checkpoints", keep=3, asynchronous=False) as checkpointer:
        for step in (20, 30, 40):
            checkpointer.save(step, {"x": jnp.zeros(1)}, {})
        checkpointer.mark_best(20, 0.7, "accuracy")
    return tmp_path


def resume(run, metric, last):
    checkpointer = Checkpointer(run / "checkpoints")
    return best.resume(run, metric, last, checkpointer), checkpointer.best_mark()


@pytest.mark.parametrize(
    ("metric", "lower"),
    [("loss", True), ("en/loss", True), ("rmse", True), ("perplexity", True), ("accuracy", False), ("f1", False)],
)
def test_losses_and_errors_should_be_low_and_all_else_high(metric, lower):
    assert best.lower_is_better(metric) == lower


def test_the_first_of_equal_values_is_the_best_and_nan_never_is():
    values = Best("accuracy")
    assert [values.add(step, {"accuracy": value}) for step, value in {1: math.nan, **VALUES}.items()] == [
        *(False, True, True, False, False)
    ]
    assert (values.mark, values.stale) == ((20, 0.7), 2)
    with pytest.raises(InputError, match="config.evaluate.best is 'accuracy'; expected one of loss, acc; did you"):
        values.add(50, {"loss": 1.0, "acc": 0.5})


def test_evaluations_after_the_restored_step_do_not_count(run):
    assert list(best.read(run, "accuracy", 30).values) == [10, 20, 30]
    assert [best.read(run, "accuracy", last).stale for last in (10, 20, 30, 40, 50)] == [0, 0, 1, 2, 3]
    assert best.read(run, "", 50).stale == 0  # Of the loss.
    assert best.read(run / "nowhere", "", 50).stale == 0


def test_a_mark_that_is_right_stays(run):
    chosen, mark = resume(run, "accuracy", 40)
    assert chosen.mark == (20, 0.7) and mark == {"step": 20, "value": 0.7, "metric": "accuracy"}


def test_a_run_killed_between_a_checkpoint_and_its_mark_gets_the_mark(run):
    Checkpointer(run / "checkpoints").mark_best(30, 0.6, "accuracy")
    chosen, mark = resume(run, "accuracy", 40)
    assert chosen.mark == (20, 0.7) and mark["step"] == 20


def test_a_mark_of_a_checkpoint_that_was_not_completed_is_corrected(run):
    Checkpointer(run / "checkpoints").mark_best(50, 0.9, "accuracy")
    assert resume(run, "accuracy", 40)[1]["step"] == 20
    Checkpointer(run / "checkpoints").mark_best(50, 0.9, "accuracy")
    assert resume(run, "accuracy", 10)[1] == {}


def test_another_metric_chooses_among_the_same_checkpoints(run):
    chosen, mark = resume(run, "loss", 30)
    assert mark == {"step": 20, "value": 0.65, "metric": "loss"} and not chosen.add(40, {"loss": 0.7})
    assert resume(run, "f1", 40)[1] == {}


def test_an_earlier_versions_mark_was_of_the_loss_and_is_believed_without_metrics(run):
    (run / metrics.FILE).unlink()
    (run / "checkpoints" / "best.json").write_text('{"step": 30, "value": 0.2}')
    chosen, mark = resume(run, "", 40)
    assert chosen.mark == (30, 0.2) and mark == {"step": 30, "value": 0.2}
    chosen.add(50, {"loss": 0.1})
    chosen.write(40, Checkpointer(run / "checkpoints"))
    assert Checkpointer(run / "checkpoints").best_mark()["step"] == 30
