"""Tasks: objectives whose model answers something about each row, such as a label, and whose answers are scored."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from lm_jax.core.config import Tree
from lm_jax.core.sums import Sums
from lm_jax.data.rows import Sizes
from lm_jax.data.tables import Records
from lm_jax.models import pooling
from lm_jax.models.interface import Inputs, Output
from lm_jax.models.model import Bound
from lm_jax.models.task import TaskHeadConfig
from lm_jax.objectives.base import Batch, Loss, Objective, Part, accuracy, balanced, per_weight, weighted
from lm_jax.objectives.cross_entropy import cross_entropy
from lm_jax.objectives.framing import Framing
from lm_jax.objectives.roles import Role

# What a model says about the rows of a batch, by name: [batch, ...].
Outputs = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vectors:
    """How a sentence encoder makes one vector of each text, for exports.

    Attributes:
      pool: a key of `models.pooling.POOLS`.
      unit: whether vectors are normalised to length 1.
    """

    pool: str = "mean"
    unit: bool = True


class Task(Objective, abc.ABC):
    """A task; subclasses define its features, head, outputs, losses and answers.

    To score it, run `answer` on the rows of a plan in their order, join the outputs of all batches without rows of
    padding, and compare `answers_of` with `references`, which both have one entry for each record of these rows.

    Attributes:
      kind_of_answers: the kind of its answers, a key of `evaluate.metrics.METRICS`.
      answer_columns: the columns that hold the answers, which new rows lack.
      stand_ins: the kinds of the columns that stand in for columns of answers in new rows, such as "words" for tags;
        columns of answers that are not named are not read.
      labels: names of the labels, by id; empty if answers are no labels.
      sequences: the text columns of each sequence of a row, which `framing` joins.
      vectors: how the model makes vectors of texts if it is a sentence encoder, else None.
    """

    roles = {"model": Role(kinds=("encoder", "decoder"))}
    terms = ("loss",)
    kind_of_answers: str
    answer_columns: tuple[str, ...]
    stand_ins: Mapping[str, str] = Tree()
    framing: Framing
    sequences: tuple[tuple[str, ...], ...]
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
        """What the model says about each row, such as `logits`; `dropout` is the head's key.

        The hidden states of `output` are those of the tokens that `read` names.
        """

    @abc.abstractmethod
    def losses(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
        """The loss of each answer, and its weight: 0 for padding."""

    @abc.abstractmethod
    def answers_of(self, outputs: Mapping[str, np.ndarray], rows: Records) -> list[Any]:
        """One answer per record, on the host, as `evaluate.metrics` reads it.

        Args:
          outputs: the outputs of all rows, in order; padding is left out.
          rows: the rows.
        """

    @abc.abstractmethod
    def described(self, outputs: Mapping[str, np.ndarray], rows: Records) -> list[dict[str, Any]]:
        """One answer per record with its scores, in names instead of ids, as `lm-jax predict` writes it."""

    def references(self, rows: Records) -> list[Any]:
        """The true answer of each record, as `evaluate.metrics` reads it."""
        (column,) = self.answer_columns
        return [rows.entry(column, record).item() for record in rows.records]

    def lengths(self, sizes: Sizes) -> Int[np.ndarray, " rows"]:
        """The tokens of the longest sequence of rows whose texts have these numbers of tokens."""
        totals = [self.framing.total([sizes[name] for name in names]) for names in self.sequences]
        return np.max(totals, axis=0)

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """The sum of the weights of all answers."""
        return {"answers": batch["weights"].sum()}

    def inputs(self, batch: Batch) -> Inputs:
        """All sequences of all rows as one batch; `segments` are 0 at padding."""
        tokens, types, segments = (flattened(batch[name]) for name in ("tokens", "types", "segments"))
        return Inputs(tokens=tokens, types=types, segments=segments)

    def read(self, batch: Batch, pool: str) -> Int[Array, "sequences read"] | None:
        """Indices of the only tokens of each sequence whose hidden states `outputs` reads; None: all."""
        return pooling.read(flattened(batch["segments"]), pool)

    def read_tokens(self, pool: str) -> int | None:
        """The number of tokens of a sequence that `read` names; None: all."""
        return 1 if pool in pooling.PLACES else None

    def measures(self, outputs: Outputs, batch: Batch) -> Sums:
        """Metrics that are sums over rows, besides the loss, such as accuracy; for the log."""
        return {}

    def answer(self, models: Mapping[str, Bound], part: Part) -> tuple[Loss, Outputs]:
        """The loss of a batch, and the outputs that `predictions` reads."""
        model, batch = models["model"], part.batch
        keys = (None, None) if part.key is None else jax.random.split(part.key)
        read = self.read(batch, model.module.config.task.pool)
        output = model(self.inputs(batch).replace(read=read), dropout=keys[0])  # type: ignore[attr-defined]
        outputs = self.outputs(model, output, batch, keys[1])
        loss = weighted(*self.losses(outputs, batch))
        metrics = {"loss": loss, **self.measures(outputs, batch)}
        return balanced(per_weight(loss.total, part.weights["answers"]), metrics, output), outputs

    def loss(self, models: Mapping[str, Bound], part: Part) -> Loss:
        """The mean loss of the answers."""
        return self.answer(models, part)[0]


class OneOf(Task):
    """A task whose answer is the best of several; `outputs` has their `logits` [batch answers]."""

    def losses(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
        """The cross-entropy of the right answer, of a softmax over all of them."""
        return cross_entropy(outputs["logits"], batch["answers"]), batch["weights"]

    def measures(self, outputs: Outputs, batch: Batch) -> Sums:
        """The share of right answers."""
        return {"accuracy": accuracy(outputs["logits"], batch["answers"], batch["weights"])}

    def answers_of(self, outputs: Mapping[str, np.ndarray], rows: Records) -> list[int]:
        """The numbers of the answers, from 0."""
        return outputs["logits"].argmax(-1).tolist()


def flattened(x: jax.Array) -> jax.Array:
    """All sequences of all rows, [sequences length]."""
    return x.reshape(-1, x.shape[-1])


def softmax(logits: Float[np.ndarray, "*batch classes"]) -> Float[np.ndarray, "*batch classes"]:
    """Probabilities, on the host."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
