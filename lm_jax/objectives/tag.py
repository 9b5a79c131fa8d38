"""Token classification: a tag for each word, as in BERT (Devlin et al. 2019, section 5.3).

The first token of a word stands for the word, in the loss and in predictions. The tags are a column of the corpus of
the kind "tags".
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lm_jax.core.config import InputError, Tree
from lm_jax.core.sums import Sums
from lm_jax.data.rows import Reads
from lm_jax.data.tables import Records
from lm_jax.models.interface import Output
from lm_jax.models.model import Bound
from lm_jax.models.task import TaskHeadConfig
from lm_jax.objectives.base import Batch, Field, Vocabulary, Work, accuracy
from lm_jax.objectives.cross_entropy import cross_entropy
from lm_jax.objectives.framing import Framing, fields, frame, framed
from lm_jax.objectives.task import Outputs, Task, softmax

# The tag of words outside of all entities, which a word beyond the end of a row gets too.
OUTSIDE = "O"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TagConfig:
    """The columns of the text and of the tags of its words."""

    text: str = "text"
    tags: str = "tags"


@dataclasses.dataclass(frozen=True)
class Tag(Task):
    """Rows [CLS] text [SEP]; words that begin beyond the row's end are left out.

    Example:
      >>> labels = Tree(tags=("O", "PER"))
      >>> vocabulary = Vocabulary(size=100, pad=0, eos=1, cls=2, sep=3, ordinary=(5, 100), labels=labels)
      >>> row = {"text": np.array([11, 12, 13]), "tags": np.array([[0, 2, 1], [2, 3, 0]])}
      >>> row = Tag(TagConfig(), vocabulary, length=6).features(row, np.random.default_rng(0))
      >>> print(row["tokens"], row["answers"], row["weights"])
      [ 2 11 12 13  3  0] [0 1 0 0 0 0] [0. 1. 0. 1. 0. 0.]
    """

    config: TagConfig
    vocabulary: Vocabulary
    length: int
    kind: str = "encoder"

    kind_of_answers = "tags"

    def __post_init__(self):
        _ = self.framing

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """The column of the tags."""
        return (self.config.tags,)

    @property
    def stand_ins(self) -> Mapping[str, str]:
        """Without tags, the words of the text are read."""
        return Tree({self.config.tags: "words"})

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the tags, by id."""
        return tuple(self.vocabulary.labels.get(self.config.tags, ()))

    @functools.cached_property
    def framing(self) -> Framing:
        """The special tokens of a row."""
        return frame(self.vocabulary, self.kind, self.length, 1, "tag")

    @property
    def sequences(self) -> tuple[tuple[str, ...], ...]:
        """One sequence, of the text."""
        return ((self.config.text,),)

    @property
    def reads(self) -> Reads:
        """Records with a text and the tags of its words."""
        return Reads(
            plan="columns",
            length=self.length,
            columns=Tree({self.config.text: self.framing.room(1), self.config.tags: 0}),
            lengths=self.lengths,
        )

    @property
    def spec(self) -> Mapping[str, Field]:
        """Fields of the features."""
        row = Field(shape=(self.length,), axes=("length",))
        return {**fields(self.length), "answers": row, "weights": dataclasses.replace(row, dtype="float32")}

    @property
    def work(self) -> tuple[Work, ...]:
        """The model and its head read the whole row."""
        return (Work(role="model", length=self.length, scored=0, heads=Tree(task=self.length)),)

    def head(self, config: TaskHeadConfig) -> TaskHeadConfig:
        """The tags of every hidden state, by a projection alone unless the model's family has more layers."""
        classes = len(self.labels)
        if not classes:
            raise InputError(f"the column {self.config.tags!r} has no tags; give a column of the kind 'tags'")
        if config.pool == "all" and config.classes not in (0, classes):
            raise InputError(
                f"config.model.task.classes is {config.classes}, but the column {self.config.tags!r} has {classes} "
                "tags; set it to 0 for a head that fits"
            )
        return config.per_token(classes)

    def features(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`tokens`, `types`, `segments`, `answers` and `weights` of `length`; weights are 1 where a word begins."""
        words, places = row[self.config.tags], self._places(row[self.config.tags])
        answers, weights = np.zeros(self.length, np.int32), np.zeros(self.length, np.float32)
        answers[places[places > 0]], weights[places[places > 0]] = words[places > 0, 2], 1
        row = framed(self.framing, [row[self.config.text]], self.vocabulary.pad)
        return {**row, "answers": answers, "weights": weights}

    def _places(self, words: Int[np.ndarray, "words 3"]) -> Int[np.ndarray, " words"]:
        """The position in the row of the first token of each word; -1 without a token, or beyond the row."""
        places = words[:, 0] + len(self.framing.before)
        inside = (words[:, 0] < words[:, 1]) & (places < self.length - len(self.framing.after))
        return np.where(inside, places, -1)

    def outputs(self, model: Bound, output: Output, batch: Batch, dropout: jax.Array | None) -> Outputs:
        """`logits` [batch length tags]."""
        return {"logits": model.task(output.hidden, dropout=dropout).astype(jnp.float32)}

    def losses(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
        """The cross-entropy of the tag of each word."""
        return cross_entropy(outputs["logits"], batch["answers"]), batch["weights"]

    def measures(self, outputs: Outputs, batch: Batch) -> Sums:
        """The share of words with the right tag."""
        return {"accuracy": accuracy(outputs["logits"], batch["answers"], batch["weights"])}

    def answers_of(self, outputs: Mapping[str, np.ndarray], rows: Records) -> list[list[str]]:
        """The names of the tags of all words of each record."""
        return [[name for name, _ in words] for words in self._tags(outputs, rows)]

    def described(self, outputs: Mapping[str, np.ndarray], rows: Records) -> list[dict[str, Any]]:
        """`tags`, one per word, and their `scores`, which are probabilities; words beyond the row have the score 0."""
        return [
            {"tags": [name for name, _ in words], "scores": [score for _, score in words]}
            for words in self._tags(outputs, rows)
        ]

    def _tags(self, outputs: Mapping[str, np.ndarray], rows: Records) -> list[list[tuple[str, float]]]:
        probabilities, answers = softmax(outputs["logits"]), []
        for number, record in enumerate(rows.records):
            words = []
            for at in self._places(rows.entry(self.config.tags, record)).tolist():
                if at < 0:
                    words.append((OUTSIDE, 0.0))
                    continue
                best = int(probabilities[number, at].argmax())
                words.append((self.labels[best], float(probabilities[number, at, best])))
            answers.append(words)
        return answers

    def references(self, rows: Records) -> list[list[str]]:
        """The names of the tags of all words of each record."""
        column = self.config.tags
        return [[self.labels[id] for id in rows.entry(column, record)[:, 2]] for record in rows.records]
