"""Multiple choice: which of several texts continues or answers a text (SWAG in Devlin et al. 2019, section 4.4).

The model scores every choice beside the text, and a softmax over the scores decides. Each choice is a column of the
corpus; labels are the numbers of the right choices, in the order of the choices.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.core.config import InputError, Tree
from lm_jax.data.rows import Reads
from lm_jax.data.tables import Records
from lm_jax.models.interface import Output
from lm_jax.models.model import Bound
from lm_jax.models.pooling import pooled_read
from lm_jax.models.task import TaskHeadConfig
from lm_jax.objectives.base import Batch, Field, Vocabulary, Work
from lm_jax.objectives.framing import Framing, fields, frame, framed
from lm_jax.objectives.task import OneOf, Outputs, flattened, softmax

KEY = "config.objective.choice"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChoiceConfig:
    """The columns of the texts that every choice is read with, of the choices in order, and of the right choice."""

    texts: tuple[str, ...] = ("text",)
    choices: tuple[str, ...] = ("choice1", "choice2")
    label: str = "label"

    def __post_init__(self):
        if len(self.choices) < 2 or not 1 <= len(self.texts):
            raise InputError(
                f"{KEY}.choices is {self.choices} and {KEY}.texts {self.texts}; expected at least 2 and 1 columns"
            )


@dataclasses.dataclass(frozen=True)
class Choice(OneOf):
    """Rows of one sequence per choice: [CLS] text [SEP] choice [SEP].

    Example:
      >>> vocabulary = Vocabulary(size=100, pad=0, eos=1, cls=2, sep=3, ordinary=(5, 100))
      >>> row = {"text": np.array([11, 12]), "choice1": np.array([21]), "choice2": np.array([22, 23]), "label": 1}
      >>> row = Choice(ChoiceConfig(), vocabulary, length=8).features(row, np.random.default_rng(0))
      >>> print(row["tokens"], row["answers"])
      [[ 2 11 12  3 21  3  0  0]
       [ 2 11 12  3 22 23  3  0]] 1
    """

    config: ChoiceConfig
    vocabulary: Vocabulary
    length: int
    kind: str = "encoder"

    kind_of_answers = "label"

    def __post_init__(self):
        _ = self.framing
        names, choices = self.labels, self.config.choices
        if names and len(names) > len(choices):
            raise InputError(
                f"the column {self.config.label!r} has {len(names)} labels, but {KEY}.choices names {len(choices)} "
                "columns; name one column per label"
            )

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """The column of the right choices."""
        return (self.config.label,)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the choices: those of the data."""
        return tuple(self.vocabulary.labels.get(self.config.label, ()))

    @functools.cached_property
    def framing(self) -> Framing:
        """The special tokens of a row."""
        return frame(self.vocabulary, self.kind, self.length, len(self.config.texts) + 1, "choice")

    @property
    def sequences(self) -> tuple[tuple[str, ...], ...]:
        """A sequence per choice."""
        return tuple((*self.config.texts, choice) for choice in self.config.choices)

    @property
    def reads(self) -> Reads:
        """Records with the texts, all choices and the number of the right one."""
        texts = (*self.config.texts, *self.config.choices)
        columns = dict.fromkeys(texts, self.framing.room(len(self.config.texts) + 1))
        return Reads(
            plan="columns", length=self.length, columns=Tree({**columns, self.config.label: 0}), lengths=self.lengths
        )

    @property
    def spec(self) -> Mapping[str, Field]:
        """Fields of the features."""
        return {**fields(len(self.config.choices), self.length), "answers": Field(), "weights": Field(dtype="float32")}

    @property
    def work(self) -> tuple[Work, ...]:
        """The model reads one sequence per choice."""
        count = len(self.config.choices)
        return (Work(role="model", length=count * self.length, scored=0, heads=Tree(task=count), sequences=count),)

    def head(self, config: TaskHeadConfig) -> TaskHeadConfig:
        """One logit per choice."""
        if config.classes not in (0, 1):
            raise InputError(
                f"config.model.task.classes is {config.classes}; set it to 0, because a choice has 1 score"
            )
        return dataclasses.replace(config, classes=1)

    def features(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`tokens`, `types` and `segments` [choices length], `answers`, and `weights`: 0 if the row has no answer."""
        texts = [row[name] for name in self.config.texts]
        rows = [framed(self.framing, [*texts, row[name]], self.vocabulary.pad) for name in self.config.choices]
        entry = row.get(self.config.label)
        return {
            **{name: np.stack([each[name] for each in rows]) for name in rows[0]},
            "answers": np.asarray(0 if entry is None else entry, np.int32),
            "weights": np.array(entry is not None, np.float32),
        }

    def outputs(self, model: Bound, output: Output, batch: Batch, dropout: jax.Array | None) -> Outputs:
        """`logits` [batch choices]."""
        segments = batch["segments"]
        states = pooled_read(output.hidden, flattened(segments), model.module.config.task.pool)
        return {"logits": model.task(states, dropout=dropout).reshape(segments.shape[:2]).astype(jnp.float32)}

    def described(self, outputs: Mapping[str, np.ndarray], rows: Records) -> list[dict[str, Any]]:
        """`label`, the `choice` (its column), and the `scores` of all choices, which are probabilities."""
        scores, names = softmax(outputs["logits"].astype(np.float64)).tolist(), self.config.choices
        return [
            {
                "label": self.labels[best] if best < len(self.labels) else str(best),
                "choice": names[best],
                "scores": dict(zip(names, row, strict=True)),
            }
            for best, row in zip(self.answers_of(outputs, rows), scores, strict=True)
        ]
