"""Scores of a task's answers on held-out rows, and the answers to new rows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from lm_jax.core.sums import Sums, add, means
from lm_jax.data.lengths import Ascending
from lm_jax.data.pipeline import Batch
from lm_jax.data.rows import Rows
from lm_jax.data.tables import Records
from lm_jax.evaluate import metrics
from lm_jax.objectives.task import Task

# (weights, batch) -> sums of the metrics, and outputs of the rows.
Step = Callable[[Any, Any], tuple[Sums, Any]]


@dataclasses.dataclass(frozen=True)
class Answering:
    """Answers to the rows of a plan.

    Attributes:
      objective: the task.
      step: jitted.
      batches: iterates once over this host's rows, in order; the last batch is padded.
      put: moves this host's rows to the devices, as a global batch.
      rows: the rows.
      similar: whether rows of similar length share batches, which are cut; their lengths are known.
    """

    objective: Task
    step: Step
    batches: Callable[[Rows], Iterator[Batch]]
    put: Callable[[Mapping[str, np.ndarray]], Any]
    rows: Records
    similar: bool = False

    def outputs(self, weights: Any, rows: Records) -> tuple[Sums, dict[str, np.ndarray]]:
        """The sums of the metrics over `rows`, and the outputs of each row."""
        total: Sums = {}
        parts: list[dict[str, np.ndarray]] = []
        pending = None
        plan = Ascending(rows) if self.similar else rows
        for batch in self.batches(plan):
            current = self.step(weights, self.put(batch))
            # Fetched one batch late, so that the host prepares a batch while the device computes.
            total = self._fetch(pending, total, parts)
            pending = current
        total = self._fetch(pending, total, parts)
        joined = {name: _joined([part[name] for part in parts]) for name in (parts[0] if parts else ())}
        places = np.argsort(plan.order) if isinstance(plan, Ascending) else np.arange(len(rows))
        return total, {name: array[places] for name, array in joined.items()}

    def _fetch(self, pending: Any, total: Sums, parts: list[dict[str, np.ndarray]]) -> Sums:
        if pending is None:
            return total
        sums, outputs = pending
        parts.append(_on_every_host(outputs))
        return add(total, jax.device_get(sums))

    def described(self, weights: Any, rows: Records) -> list[dict[str, Any]]:
        """One answer per record of `rows`, with its scores."""
        return self.objective.described(self.outputs(weights, rows)[1], rows)


@dataclasses.dataclass(frozen=True)
class TaskScores:
    """Scores the answers to held-out rows; `names` are metrics of `metrics.METRICS`."""

    answering: Answering
    names: tuple[str, ...]

    def run(self, weights: Any) -> Iterator[tuple[str, float]]:
        """Yields `loss`, the other sums of the objective, and the metrics."""
        answering, objective = self.answering, self.answering.objective
        sums, outputs = answering.outputs(weights, answering.rows)
        values = means(sums)
        yield "loss", sum(values[term] for term in objective.terms)
        answers, kind = objective.answers_of(outputs, answering.rows), objective.kind_of_answers
        scores = metrics.compute(kind, self.names, answers, self._references, objective.labels)
        yield from {name: value for name, value in {**values, **scores}.items() if name != "loss"}.items()

    def values(self, weights: Any, batch: Any) -> tuple[str, ...]:
        """The names of what `run` yields, from the shapes of the weights and of a batch."""
        objective = self.answering.objective
        sums = [name for name in jax.eval_shape(self.answering.step, weights, batch)[0] if name != "loss"]
        return ("loss", *sums, *metrics.values_of(objective.kind_of_answers, self.names, objective.labels))

    @functools.cached_property
    def _references(self) -> list[Any]:
        return self.answering.objective.references(self.answering.rows)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """The outputs of all batches; zeros are appended to those of batches with shorter rows."""
    shape = np.max([part.shape[1:] for part in parts], axis=0) if parts[0].ndim > 1 else ()
    missing = lambda part: [(0, 0), *((0, int(size) - own) for size, own in zip(shape, part.shape[1:], strict=True))]
    return np.concatenate([np.pad(part, missing(part)) for part in parts])


def _on_every_host(outputs: Any) -> dict[str, np.ndarray]:
    """The outputs of the whole batch, which hosts hold in parts."""
    if jax.process_count() == 1:
        return jax.device_get(outputs)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(outputs, tiled=True)
