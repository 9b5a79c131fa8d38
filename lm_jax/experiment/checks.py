"""Checks of settings that name something which the rest of the configuration defines."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from lm_jax.core.config import InputError, lookup
from lm_jax.core.trees import flatten, selects
from lm_jax.evaluate import metrics, written
from lm_jax.objectives.seq2seq import Seq2Seq
from lm_jax.objectives.task import Task

if TYPE_CHECKING:
    from lm_jax.experiment.pieces import Experiment


def check_trained(exp: Experiment) -> None:
    """Refuses a pattern of `config.train.only` that matches no parameter, and another choice beside it."""
    method = exp.config.adapt.method
    if exp.config.train.only and method != "full":
        raise InputError(
            f"config.train.only is {','.join(exp.config.train.only)} and config.adapt.method {method!r}, which both "
            "choose what is trained; leave out one of them"
        )
    if exp.phases and exp.config.optimizer.name == "schedule_free":
        raise InputError(
            f"config.adapt.method is {method!r}, but the optimizer schedule_free averages all parameters from the "
            "first step on; use config.optimizer.name=adamw"
        )
    paths = list(flatten(exp.models.shapes))
    for pattern in exp.config.train.only:
        if not any(selects([pattern], path) for path in paths):
            names = [path.partition("/")[2] for path in paths]
            near = difflib.get_close_matches(re.sub(r"\W+", "/", pattern).strip("/"), names, n=3, cutoff=0)
            raise InputError(
                f"config.train.only has {pattern!r}, which matches no parameter; the nearest are {', '.join(near)}"
            )


def check_metrics(exp: Experiment) -> None:
    """Refuses a name in `config.task.metrics` that is no metric of the answers of the run's objective."""
    objective = exp.objective
    if isinstance(objective, (Task, Seq2Seq)):
        kind = objective.kind_of_answers if isinstance(objective, Task) else written.KIND
        metrics.check(kind, exp.config.task.metrics, "config.task.metrics")


def check_best(exp: Experiment) -> None:
    """Refuses a metric `config.evaluate.best` that the evaluation does not compute, if there is an evaluation."""
    best = exp.config.evaluate.best
    if best and len(exp.feed.rows("validation")):
        names = exp.validation().values(exp.state_like.weights, exp.batch_like)
        lookup(dict.fromkeys(names), best, "config.evaluate.best")
