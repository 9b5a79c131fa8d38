"""Sentence embeddings: one vector per text, compared by its cosine (Reimers and Gurevych 2019, arXiv:1908.10084).

"contrastive" trains on pairs that belong together, against the other pairs of the batch on all devices (in-batch
negatives, van den Oord et al. 2018, arXiv:1807.03748, equation 4; Gao et al. 2021, arXiv:2104.08821). "cosine"
regresses the cosine of a pair to a score.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lm_jax.core.config import InputError, Tree, lookup, setting
from lm_jax.core.sums import Sums
from lm_jax.data.rows import Reads
from lm_jax.data.tables import Records
from lm_jax.models.interface import Output
from lm_jax.models.model import Bound
from lm_jax.models.pooling import pooled_read
from lm_jax.models.task import TaskHeadConfig
from lm_jax.objectives.base import Batch, Field, Vocabulary, Work, accuracy
from lm_jax.objectives.cross_entropy import cross_entropy
from lm_jax.objectives.framing import Framing, fields, frame, framed
from lm_jax.objectives.task import Outputs, Task, Vectors, flattened

KEY = "config.objective.embed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedTaskConfig:
    """Settings of the rows and of the loss.

    Attributes:
      text, pair: the columns of the texts of a pair; an empty `pair` reads each text twice, so that dropout makes the
        difference (SimCSE, Gao et al. 2021, section 3).
      negative: a column of texts that belong to no pair (hard negatives); empty: none.
      score: the column of scores, for the loss "cosine".
      highest: the score of equal texts; the cosine is compared with score / highest.
      loss: "contrastive" or "cosine".
      temperature: cosines are divided by it in the contrastive loss.
      pool: the hidden states that become a vector, a key of `models.pooling.POOLS`.
    """

    text: str = "text"
    pair: str = "pair"
    negative: str = ""
    score: str = ""
    highest: float = setting(1.0, above=0)
    loss: str = "contrastive"
    temperature: float = setting(0.05, above=0)
    pool: str = "mean"

    def __post_init__(self):
        lookup({"contrastive": None, "cosine": None}, self.loss, f"{KEY}.loss")
        if (self.loss == "cosine") != bool(self.score) or (self.loss == "cosine" and not self.pair):
            raise InputError(
                f"{KEY}.loss is {self.loss!r}, with score={self.score!r} and pair={self.pair!r}; the loss cosine needs "
                "a column of pairs and one of scores, contrastive reads no scores"
            )


@dataclasses.dataclass(frozen=True)
class Embed(Task):
    """Rows of one sequence per text: [CLS] text [SEP]."""

    config: EmbedTaskConfig
    vocabulary: Vocabulary
    length: int
    kind: str = "encoder"

    def __post_init__(self):
        _ = self.framing

    @property
    def coupled(self) -> bool:
        """Whether the other rows of a batch are negatives."""
        return self.config.loss == "contrastive"

    @property
    def kind_of_answers(self) -> str:
        """Cosines, or the texts of all pairs ranked by their cosine with a text."""
        return "number" if self.config.loss == "cosine" else "ranking"

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """The column of the scores."""
        return (self.config.score,) if self.config.score else ()

    @functools.cached_property
    def framing(self) -> Framing:
        """The special tokens of a row."""
        return frame(self.vocabulary, self.kind, self.length, 1, "embed")

    @property
    def _texts(self) -> tuple[str, ...]:
        config = self.config
        return (config.text, config.pair or config.text, *((config.negative,) if config.negative else ()))

    @property
    def sequences(self) -> tuple[tuple[str, ...], ...]:
        """A sequence per text."""
        return tuple((name,) for name in self._texts)

    @property
    def reads(self) -> Reads:
        """Records with all texts, and their score."""
        columns = {**dict.fromkeys(self._texts, self.framing.room(1)), **dict.fromkeys(self.answer_columns, 0)}
        return Reads(plan="columns", length=self.length, columns=Tree(columns), lengths=self.lengths)

    @property
    def spec(self) -> Mapping[str, Field]:
        """Fields of the features."""
        return {
            **fields(len(self._texts), self.length),
            "answers": Field(dtype="float32"),
            "weights": Field(dtype="float32"),
        }

    @property
    def work(self) -> tuple[Work, ...]:
        """The model reads each text."""
        count = len(self._texts)
        return (Work(role="model", length=count * self.length, scored=0, sequences=count),)

    @property
    def vectors(self) -> Vectors:
        """The mean, or another pool, with norm 1."""
        return Vectors(pool=self.config.pool, unit=True)

    def head(self, config: TaskHeadConfig) -> TaskHeadConfig:
        """None: hidden states are pooled as they are."""
        return TaskHeadConfig(pool=self.config.pool)

    def features(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`tokens`, `types` and `segments` [texts length], `answers` (the desired cosine) and `weights`."""
        rows = [framed(self.framing, [row[name]], self.vocabulary.pad) for name in self._texts]
        score = row.get(self.config.score) if self.config.score else None
        return {
            **{name: np.stack([each[name] for each in rows]) for name in rows[0]},
            "answers": np.array(0 if score is None else score / self.config.highest, np.float32),
            "weights": np.array(1 if score is not None or not self.config.score else 0, np.float32),
        }

    def outputs(self, model: Bound, output: Output, batch: Batch, dropout: jax.Array | None) -> Outputs:
        """`vectors` of norm 1 [batch texts embed]."""
        segments = batch["segments"]
        vectors = pooled_read(output.hidden, flattened(segments), self.config.pool).astype(jnp.float32)
        norms = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
        return {"vectors": (vectors / jnp.maximum(norms, 1e-12)).reshape(*segments.shape[:2], -1)}

    def _scores(self, outputs: Outputs, batch: Batch) -> Float[Array, "batch candidates"]:
        """Cosines of each text with all others of the batch, over the temperature; padding is ruled out."""
        vectors = outputs["vectors"]
        candidates = vectors[:, 1:].swapaxes(0, 1).reshape(-1, vectors.shape[-1])
        used = jnp.tile(batch["weights"] > 0, vectors.shape[1] - 1)
        return jnp.where(used[None], vectors[:, 0] @ candidates.T / self.config.temperature, -1e9)

    def losses(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
        """The cross-entropy of the right text among all of the batch, or the squared error of the cosine."""
        if self.config.loss == "contrastive":
            scores = self._scores(outputs, batch)
            return cross_entropy(scores, jnp.arange(len(scores))), batch["weights"]
        vectors = outputs["vectors"]
        return jnp.square((vectors[:, 0] * vectors[:, 1]).sum(-1) - batch["answers"]), batch["weights"]

    def measures(self, outputs: Outputs, batch: Batch) -> Sums:
        """The share of texts whose own pair has the highest cosine in the batch."""
        if self.config.loss == "cosine":
            return {}
        scores = self._scores(outputs, batch)
        return {"accuracy": accuracy(scores, jnp.arange(len(scores)), batch["weights"])}

    def answers_of(self, outputs: Mapping[str, np.ndarray], rows: Records) -> list[Any]:
        """Cosines, or for each text the numbers of the other texts by descending cosine."""
        first, second = outputs["vectors"][:, 0], outputs["vectors"][:, 1]
        if self.config.loss == "cosine":
            return (first * second).sum(-1).tolist()
        return np.argsort(-(first @ second.T), axis=-1, kind="stable").tolist()

    def references(self, rows: Records) -> list[Any]:
        """Scores, or for each text the number of its own pair."""
        return super().references(rows) if self.config.score else [{number} for number in range(len(rows))]

    def described(self, outputs: Mapping[str, np.ndarray], rows: Records) -> list[dict[str, Any]]:
        """The `cosine` of each pair."""
        vectors = outputs["vectors"]
        return [{"cosine": cosine} for cosine in (vectors[:, 0] * vectors[:, 1]).sum(-1).tolist()]
