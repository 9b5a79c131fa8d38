"""Classification and regression of a text or of a pair of texts, as in BERT (Devlin et al. 2019, section 4.1).

The label of each row is a column of the corpus (`config.data.columns`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lm_jax.core.config import InputError, Tree, lookup, setting
from lm_jax.core.sums import Sums
from lm_jax.data.rows import Reads
from lm_jax.data.tables import Records
from lm_jax.models.interface import Output
from lm_jax.models.model import Bound
from lm_jax.models.pooling import pooled_read
from lm_jax.models.task import TaskHeadConfig
from lm_jax.objectives.base import Batch, Field, Vocabulary, Work, accuracy
from lm_jax.objectives.cross_entropy import binary_cross_entropy, cross_entropy
from lm_jax.objectives.framing import Framing, fields, frame, framed
from lm_jax.objectives.task import Outputs, Task, softmax

KEY = "config.objective.classify"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifyConfig:
    """Settings of the rows and of the loss.

    Attributes:
      text: the column of the text.
      pair: the column of a second text; empty: rows have one text.
      label: the column of the answers.
      answers: "label" (one of several), "labels" (any number of them) or "number" (regression).
      markers: pieces whose hidden states the head reads, concatenated, instead of the pooled row: those that open the
        entities of a relation (Baldini Soares et al. 2019, arXiv:1906.03158, section 3.2).
      weights: the weight of each label in the loss, in the order of their ids; empty: 1.
    """

    text: str = "text"
    pair: str = ""
    label: str = "label"
    answers: str = "label"
    markers: tuple[str, ...] = ()
    weights: tuple[float, ...] = setting((), at_least=0)


class Answers(NamedTuple):
    """A kind of answers.

    Attributes:
      field: of the answers of a batch, for a number of classes.
      value: the answers of a row as an array, from the entry of their column and the number of classes.
      losses: of logits [batch classes] and answers, [batch].
      predict: the answers of logits.
      scores: of logits, the probability of each label.
    """

    field: Callable[[int], Field]
    value: Callable[[Any, int], np.ndarray]
    losses: Callable[[jax.Array, jax.Array], jax.Array]
    predict: Callable[[np.ndarray], list[Any]]
    scores: Callable[[np.ndarray], np.ndarray]


def _several(entry: Any, classes: int) -> np.ndarray:
    values = np.zeros(classes, np.float32)
    values[np.asarray(entry, np.int64).reshape(-1)] = 1
    return values


ANSWERS = {
    "label": Answers(
        field=lambda classes: Field(),
        value=lambda entry, classes: np.asarray(entry, np.int32),
        losses=cross_entropy,
        predict=lambda logits: logits.argmax(-1).tolist(),
        scores=softmax,
    ),
    "labels": Answers(
        field=lambda classes: Field(shape=(classes,), dtype="float32"),
        value=_several,
        losses=lambda logits, labels: binary_cross_entropy(logits, labels).mean(-1),
        predict=lambda logits: [np.flatnonzero(row > 0).tolist() for row in logits],
        scores=lambda logits: 1 / (1 + np.exp(-logits)),
    ),
    "number": Answers(
        field=lambda classes: Field(dtype="float32"),
        value=lambda entry, classes: np.asarray(entry, np.float32),
        losses=lambda logits, numbers: jnp.square(logits[..., 0].astype(jnp.float32) - numbers),
        predict=lambda logits: logits[..., 0].tolist(),
        scores=lambda logits: logits,
    ),
}


@dataclasses.dataclass(frozen=True)
class Classify(Task):
    """Rows [CLS] text [SEP], or [CLS] text [SEP] pair [SEP]; the longer text of a pair is cut first.

    Example:
      >>> vocabulary = Vocabulary(
      ...     size=100, pad=0, eos=1, cls=2, sep=3, ordinary=(5, 100), labels=Tree(label=("bad", "good"))
      ... )
      >>> classify = Classify(ClassifyConfig(), vocabulary, length=6)
      >>> row = classify.features({"text": np.array([11, 12]), "label": 1}, np.random.default_rng(0))
      >>> print(row["tokens"], row["segments"], row["answers"])
      [ 2 11 12  3  0  0] [1 1 1 1 0 0] 1
    """

    config: ClassifyConfig
    vocabulary: Vocabulary
    length: int
    kind: str = "encoder"

    def __post_init__(self):
        _ = self._answers, self.framing, self._markers
        weights = self.config.weights
        if weights and (self.config.answers != "label" or len(weights) != len(self.labels)):
            raise InputError(
                f"{KEY}.weights has {len(weights)} weights, but {KEY}.answers is {self.config.answers!r} and there are "
                f"{len(self.labels)} labels; give one weight per label, or none"
            )

    @property
    def kind_of_answers(self) -> str:
        """The kind of its answers."""
        return self.config.answers

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """The column of the labels."""
        return (self.config.label,)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels, by id; none for numbers."""
        return () if self.config.answers == "number" else tuple(self.vocabulary.labels.get(self.config.label, ()))

    @property
    def sequences(self) -> tuple[tuple[str, ...], ...]:
        """One sequence, of all texts."""
        return (self._texts,)

    @property
    def _texts(self) -> tuple[str, ...]:
        return (self.config.text, self.config.pair) if self.config.pair else (self.config.text,)

    @functools.cached_property
    def _answers(self) -> Answers:
        return lookup(ANSWERS, self.config.answers, f"{KEY}.answers")

    @functools.cached_property
    def framing(self) -> Framing:
        """The special tokens of a row."""
        return frame(self.vocabulary, self.kind, self.length, len(self._texts), "classify")

    @functools.cached_property
    def _markers(self) -> tuple[int, ...]:
        return tuple(self.vocabulary.find(piece, f"{KEY}.markers") for piece in self.config.markers)

    @property
    def reads(self) -> Reads:
        """Records with one or two texts and a label."""
        room = self.framing.room(len(self._texts))
        columns = {**dict.fromkeys(self._texts, room), self.config.label: 0}
        return Reads(plan="columns", length=self.length, columns=Tree(columns), lengths=self.lengths)

    @property
    def spec(self) -> Mapping[str, Field]:
        """Fields of the features."""
        spec = {"markers": Field(shape=(len(self._markers),))} if self._markers else {}
        return {
            **fields(self.length),
            **spec,
            "answers": self._answers.field(len(self.labels)),
            "weights": Field(dtype="float32"),
        }

    @property
    def work(self) -> tuple[Work, ...]:
        """The model reads the row, and its head one vector."""
        return (Work(role="model", length=self.length, scored=0, heads=Tree(task=1)),)

    def head(self, config: TaskHeadConfig) -> TaskHeadConfig:
        """One logit per label, or one in all for numbers."""
        classes = len(self.labels) or 1
        if config.classes not in (0, classes):
            raise InputError(
                f"config.model.task.classes is {config.classes}, but the column {self.config.label!r} has {classes} "
                "labels; set it to 0 for a head that fits"
            )
        if config.pool == "all" and not self._markers:
            raise InputError("config.model.task.pool is 'all', but a text has one label; set it to first, last or mean")
        return dataclasses.replace(config, classes=classes, states=max(1, len(self._markers)))

    def features(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`tokens`, `types` and `segments` of `length`, `answers`, and `weights`: 0 if the row has no answer."""
        features = framed(self.framing, [row[name] for name in self._texts], self.vocabulary.pad)
        classes, entry = len(self.labels), row.get(self.config.label)
        if self._markers:
            # A marker that was cut off, or never was there: the first token stands for it.
            found = [np.flatnonzero(features["tokens"] == marker)[:1] for marker in self._markers]
            features["markers"] = np.array([int(at[0]) if len(at) else 0 for at in found], np.int32)
        if entry is None:
            answers = np.zeros(self.spec["answers"].shape, self.spec["answers"].dtype)
            return {**features, "answers": answers, "weights": np.array(0, np.float32)}
        weight = self.config.weights[int(entry)] if self.config.weights else 1
        return {**features, "answers": self._answers.value(entry, classes), "weights": np.array(weight, np.float32)}

    def outputs(self, model: Bound, output: Output, batch: Batch, dropout: jax.Array | None) -> Outputs:
        """`logits` [batch classes]."""
        if self._markers:
            states = output.hidden.reshape(len(output.hidden), -1)
        else:
            states = pooled_read(output.hidden, batch["segments"], model.module.config.task.pool)
        return {"logits": model.task(states, dropout=dropout).astype(jnp.float32)}

    def read(self, batch: Batch, pool: str) -> Int[Array, "sequences read"] | None:
        """The markers, if there are any."""
        return batch["markers"] if self._markers else super().read(batch, pool)

    def read_tokens(self, pool: str) -> int | None:
        """One for each marker."""
        return len(self._markers) or super().read_tokens(pool)

    def losses(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
        """Cross-entropy of a label, the mean binary cross-entropy of several, or the squared error of a number."""
        return self._answers.losses(outputs["logits"], batch["answers"]), batch["weights"]

    def measures(self, outputs: Outputs, batch: Batch) -> Sums:
        """The accuracy of labels."""
        if self.config.answers != "label":
            return {}
        return {"accuracy": accuracy(outputs["logits"], batch["answers"], (batch["weights"] > 0).astype(jnp.float32))}

    def answers_of(self, outputs: Mapping[str, np.ndarray], rows: Records) -> list[Any]:
        """Ids of labels, lists of them, or numbers."""
        return self._answers.predict(outputs["logits"])

    def described(self, outputs: Mapping[str, np.ndarray], rows: Records) -> list[dict[str, Any]]:
        """`label` or `labels` and the `scores` of all labels, which are probabilities; or a `number`."""
        answers = self.answers_of(outputs, rows)
        if self.config.answers == "number":
            return [{"number": answer} for answer in answers]
        scores = self._answers.scores(outputs["logits"].astype(np.float64)).tolist()
        named = [dict(zip(self.labels, row, strict=True)) for row in scores]
        if self.config.answers == "label":
            return [{"label": self.labels[id], "scores": row} for id, row in zip(answers, named, strict=True)]
        labels = [[self.labels[id] for id in ids] for ids in answers]
        return [{"labels": names, "scores": row} for names, row in zip(labels, named, strict=True)]

    def references(self, rows: Records) -> list[Any]:
        """Ids of labels, lists of them, or numbers."""
        if self.config.answers != "labels":
            return super().references(rows)
        column = self.config.label
        return [sorted(rows.entry(column, record).reshape(-1).tolist()) for record in rows.records]
