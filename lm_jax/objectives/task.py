"""Tasks: objectives whose model answers something about each row, such as a label, and whose answers are scored."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from lm_jax.core.sums import Sums
from lm_jax.models.interface import Inputs, Output
from lm_jax.models.model import Bound
from lm_jax.models.task import TaskHeadConfig
from lm_jax.objectives.base import Batch, Loss, Objective, Part, balanced, per_weight, weighted
from lm_jax.objectives.roles import Role

# What a model says about the rows of a batch, by name: [batch, ...].
Outputs = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vectors:
    """How a sentence encoder makes one vector of each text, for exports.

    Attributes:
      pool: a key of `models.task.POOLS`.
      unit: whether vectors are normalised to length 1.
    """

    pool: str = "mean"
    unit: bool = True


class Task(Objective, abc.ABC):
    """A task; subclasses define its features, head, outputs, losses and answers.

    Attributes:
      answers: the kind of its answers, a key of `evaluate.metrics.METRICS`.
      answer_columns: the columns that hold the answers, which new rows lack.
      labels: names of the labels, by id; empty if answers are no labels.
      vectors: how the model makes vectors of texts if it is a sentence encoder, else None.
    """

    roles = {"model": Role(kinds=("encoder", "decoder"))}
    terms = ("loss",)
    answers: str
    answer_columns: tuple[str, ...]
    labels: tuple[str, ...] = ()
    vectors: Vectors | None = None

    @abc.abstractmethod
    def head(self, config: TaskHeadConfig) -> TaskHeadConfig:
        """The settings of the head for this task, from those of the model.

        Raises:
          InputError: the model has a head for another number of classes.
        """

    @abc.abstractmethod
    def outputs(self, model: Bound, output: Output, batch: Batch, dropout: jax.Array | None) -> Outputs:
        """What the model says about each row, such as `logits`, from its `output`; `dropout` is the head's key."""

    @abc.abstractmethod
    def losses(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
        """The loss of each answer, and its weight: 0 for padding."""

    @abc.abstractmethod
    def predictions(self, outputs: Mapping[str, np.ndarray]) -> list[Any]:
        """The answer to each row, on the host, as `evaluate.metrics` reads it."""

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """The sum of the weights of all answers."""
        return {"answers": batch["weights"].sum()}

    def inputs(self, batch: Batch) -> Inputs:
        """Tokens, and their types if the row has any; `segments` are 0 at padding."""
        return Inputs(tokens=batch["tokens"], types=batch.get("types"), segments=batch["segments"])

    def measures(self, outputs: Outputs, batch: Batch) -> Sums:
        """Metrics that are sums over rows, besides the loss, such as accuracy; for the log."""
        return {}

    def answer(self, models: Mapping[str, Bound], part: Part) -> tuple[Loss, Outputs]:
        """The loss of a batch, and the outputs that `predictions` reads."""
        model, batch = models["model"], part.batch
        keys = (None, None) if part.key is None else jax.random.split(part.key)
        output = model(self.inputs(batch), dropout=keys[0])
        outputs = self.outputs(model, output, batch, keys[1])
        loss = weighted(*self.losses(outputs, batch))
        metrics = {"loss": loss, **self.measures(outputs, batch)}
        return balanced(per_weight(loss.total, part.weights["answers"]), metrics, output), outputs

    def loss(self, models: Mapping[str, Bound], part: Part) -> Loss:
        """The mean loss of the answers."""
        return self.answer(models, part)[0]
