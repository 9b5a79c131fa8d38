"""Token classification: a tag for each word, as in BERT (Devlin et al. 2019, section 5.3).

The first token of a word stands for the word, in the loss and in predictions. The tags are a column of the corpus of
the kind "tags". A sentence that is too long for a row takes several rows of whole words, which overlap; each word is
learned and predicted in the row where it has the most context.
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

from lm_jax.core.config import InputError, Tree, setting
from lm_jax.core.sums import Sums
from lm_jax.data.rows import Reads
from lm_jax.data.tables import Records
from lm_jax.data.windows import Windows
from lm_jax.models.interface import Output
from lm_jax.models.model import Bound
from lm_jax.models.task import TaskHeadConfig
from lm_jax.objectives.base import Batch, Field, Vocabulary, Work, accuracy
from lm_jax.objectives.cross_entropy import cross_entropy
from lm_jax.objectives.framing import Framing, fields, frame, framed
from lm_jax.objectives.task import Outputs, Task, softmax

# The tag of words outside of all entities, which a word without a token gets too.
OUTSIDE = "O"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TagConfig:
    """Settings of the rows.

    Attributes:
      text: the column of the texts.
      tags: the column of the tags of their words.
      overlap: share of a row that it has in common at least with the row before, if a sentence takes several.
    """

    text: str = "text"
    tags: str = "tags"
    overlap: float = setting(0.25, at_least=0, at_most=0.5)


@dataclasses.dataclass(frozen=True)
class Tag(Task):
    """Rows [CLS] text [SEP], or a window of the text.

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
        """Texts, in windows of whole words, and the tags of their words."""
        text, tags, room = self.config.text, self.config.tags, self.framing.room(1)
        windows = Windows(column=text, room=room, overlap=int(self.config.overlap * room), words=tags)
        columns = Tree({text: room, tags: 0})
        return Reads(plan="columns", length=self.length, columns=columns, windows=windows, lengths=self.lengths)

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
        """`tokens`, `types`, `segments`, `answers` and `weights` of `length`.

        Weights are 1 where a word begins that has the most context in this row.
        """
        window, words = int(row.get("window", 0)), row[self.config.tags]
        share = row.get("share", np.array([0, self.framing.room(1)]))
        places = self._places(words, window, share)
        answers, weights = np.zeros(self.length, np.int32), np.zeros(self.length, np.float32)
        answers[places[places >= 0]], weights[places[places >= 0]] = words[places >= 0, 2], 1
        row = framed(self.framing, [row[self.config.text]], self.vocabulary.pad)
        return {**row, "answers": answers, "weights": weights}

    def _places(
        self, words: Int[np.ndarray, "words 3"], window: int, share: Int[np.ndarray, " ends"]
    ) -> Int[np.ndarray, " words"]:
        """The position in the row of the first token of each word; -1 without a token, or if it is not of the share.

        Args:
          words: the first token of each word, the one after its last, and its tag.
          window: the first token of the row.
          share: the tokens whose words are learned and predicted in this row: the first, and the one after the last.
        """
        inside = (words[:, 0] < words[:, 1]) & (words[:, 0] >= share[0]) & (words[:, 0] < share[1])
        return np.where(inside, words[:, 0] - window + len(self.framing.before), -1)

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
        """`tags`, one per word, and their `scores`, which are probabilities; words without a token have the score 0."""
        return [
            {"tags": [name for name, _ in words], "scores": [score for _, score in words]}
            for words in self._tags(outputs, rows)
        ]

    def _tags(self, outputs: Mapping[str, np.ndarray], rows: Records) -> list[list[tuple[str, float]]]:
        probabilities = softmax(outputs["logits"])
        answers: dict[int, list[tuple[str, float]]] = {}
        for row, record in enumerate(rows.numbers.tolist()):
            words = rows.entry(self.config.tags, record)
            answer = answers.setdefault(record, [(OUTSIDE, 0.0)] * len(words))
            places = self._places(words, int(rows.starts[row]), rows.shares[row])
            for word in np.flatnonzero(places >= 0).tolist():
                scores = probabilities[row, places[word]]
                best = int(scores.argmax())
                answer[word] = self.labels[best], float(scores[best])
        return [*answers.values()]

    def references(self, rows: Records) -> list[list[str]]:
        """The names of the tags of all words of each record."""
        column = self.config.tags
        return [[self.labels[id] for id in rows.entry(column, record)[:, 2]] for record in rows.records]
