"""The evaluator of a run's held-out rows."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

from lm_jax.data.tables import Records
from lm_jax.data.tasks import USUAL
from lm_jax.evaluate.language_modelling import LanguageModelling
from lm_jax.evaluate.tasks import TaskScores
from lm_jax.evaluate.written import TextScores
from lm_jax.experiment import writing
from lm_jax.objectives.seq2seq import Seq2Seq
from lm_jax.objectives.task import Task

if TYPE_CHECKING:
    from lm_jax.experiment.pieces import Experiment


def validation(exp: Experiment) -> LanguageModelling | TaskScores | TextScores:
    """The evaluator of the validation split: of answers if the objective is a task, else of its metrics.

    Texts are generated and scored if the objective is seq2seq and the configuration names metrics.
    """
    objective, task, feed = exp.objective, exp.config.task, exp.feed
    if isinstance(objective, Task):
        answering, most = exp.answering(), exp.config.evaluate.batches * exp.config.data.batch
        if most:
            answering = dataclasses.replace(answering, rows=answering.rows.first(most))
        return TaskScores(answering, task.metrics or USUAL[objective.kind_of_answers])
    ordered = functools.partial(feed.ordered, "validation", exp.config.evaluate.batches)
    likelihood = LanguageModelling(
        objective=objective,
        step=exp.eval_step(),
        batches={name: functools.partial(ordered, name) for name in feed.sources},
        put=exp.put,
        byte_lengths=exp.byte_lengths,
    )
    if not (isinstance(objective, Seq2Seq) and task.metrics):
        return likelihood
    target, writer = objective.config.target, writing.of(exp)
    # 0: all.
    limits = (len(writer.rows), task.generated, exp.config.evaluate.batches * exp.config.data.batch)
    return TextScores(
        likelihood=likelihood,
        task=task,
        sides=writing.sides(exp, target),
        write=writer.texts,
        original=functools.partial(originals, name=target),
        rows=writer.rows.part(0, min(filter(None, limits))),
    )


def originals(rows: Records, name: str) -> list[str]:
    """The entries of a column as their file has them, without cleaning and without the template."""
    return [rows.columns.originals[name][record] for record in rows.numbers.tolist()]
