"""The best evaluation of a run by one metric, for the choice of its checkpoint and for early stopping.

Its state is in metrics.jsonl, which holds the values of all evaluations, and in best.json, which names the best of
those whose step is saved; so a run that was killed continues as if it had not been.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path

import jax

from lm_jax.core.config import lookup
from lm_jax.train import metrics
from lm_jax.train.checkpoint import BEST, Checkpointer

KEY = "config.evaluate.best"
DEFAULT = "loss"
# Last words of the names of metrics that fall while a model improves.
LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte", "mse", "mae")


def lower_is_better(metric: str) -> bool:
    """Returns whether a metric falls while a model improves: losses and errors do, accuracies do not."""
    return metric.endswith(LOWER_IS_BETTER)


@dataclasses.dataclass
class Best:
    """The values of a metric so far, and the best of those whose checkpoint is saved.

    Attributes:
      metric: its name without `val/`.
      values: the value of each evaluation by step, in the order of the evaluations.
      mark: step and value of the best saved evaluation; None: there is none.

    Example:
      >>> best = Best("accuracy")
      >>> [best.add(step, {"accuracy": value}) for step, value in ((10, 0.5), (20, 0.7), (30, 0.7), (40, 0.6))]
      [True, True, False, False]
      >>> best.stale, best.summary()
      (2, 'val/accuracy has not improved for 2 evaluations (best 0.7 at step 20)')
    """

    metric: str = DEFAULT
    values: dict[int, float] = dataclasses.field(default_factory=dict)
    mark: tuple[int, float] | None = None

    def better(self, value: float, than: float) -> bool:
        """Returns whether a value is better than another; any number is better than NaN."""
        if math.isnan(value) or math.isnan(than):
            return math.isnan(than) and not math.isnan(value)
        return value < than if lower_is_better(self.metric) else value > than

    def add(self, step: int, values: Mapping[str, float]) -> bool:
        """Adds an evaluation; returns whether it is the best so far, so that its step must be saved.

        Raises:
          InputError: `values` lacks the metric.
        """
        value = lookup(values, self.metric, KEY)
        self.values.pop(step, None)
        self.values[step] = value
        if math.isnan(value) or (self.mark is not None and not self.better(value, self.mark[1])):
            return False
        self.mark = step, value
        return True

    def write(self, step: int, checkpointer: Checkpointer) -> None:
        """Marks the step that was just saved, if it is the best."""
        if self.mark is not None and self.mark[0] == step:
            checkpointer.mark_best(*self.mark, self.metric)

    @property
    def stale(self) -> int:
        """Number of evaluations since the best one; 0 if the last one is the best."""
        return max(0, len(self.values) - 1 - self._index)

    @property
    def _index(self) -> int:
        """Index of the first of the best values."""
        index, values = 0, [*self.values.values()]
        for number, value in enumerate(values):
            index = number if self.better(value, values[index]) else index
        return index

    def summary(self) -> str:
        """Formats how long ago the best evaluation was."""
        step, value = [*self.values.items()][self._index]
        count = f"{self.stale} evaluation{'s' * (self.stale != 1)}"
        return f"val/{self.metric} has not improved for {count} (best {value:.4g} at step {step})"


def read(workdir: str | os.PathLike, metric: str, last: int) -> Best:
    """Reads the evaluations of a run up to the step `last` from metrics.jsonl; `metric` is empty for the default."""
    best = Best(metric or DEFAULT)
    entries = metrics.read(workdir) if (Path(workdir) / metrics.FILE).exists() else []
    name = f"val/{best.metric}"
    best.values |= {int(entry["step"]): entry[name] for entry in entries if name in entry and entry["step"] <= last}
    return best


def resume(workdir: str | os.PathLike, metric: str, last: int, checkpointer: Checkpointer) -> Best:
    """Reads the evaluations of a run that continues after the step `last`, and corrects best.json.

    It is wrong if the run was killed between a checkpoint and its mark or went back to an earlier checkpoint, or if
    another metric decided before.
    """
    best, mark = read(workdir, metric, last), checkpointer.best_mark()
    saved = [step for step in checkpointer.steps() if step <= last]
    values = {step: value for step, value in best.values.items() if step in saved}
    if mark.get("step") in saved and mark.get("metric", DEFAULT) == best.metric:
        values.setdefault(mark["step"], mark["value"])
    for step, value in values.items():
        if not math.isnan(value) and (best.mark is None or best.better(value, best.mark[1])):
            best.mark = step, value
    if best.mark is None:
        if jax.process_index() == 0:
            (checkpointer.directory / BEST).unlink(missing_ok=True)
    elif (mark.get("step"), mark.get("metric", DEFAULT)) != (best.mark[0], best.metric):
        checkpointer.mark_best(*best.mark, best.metric)
    return best
