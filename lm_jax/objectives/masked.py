"""Masked language modelling with next-sentence prediction (Devlin et al. 2019, arXiv:1810.04805, section 3.1)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from lm_jax.core.config import InputError, Tree
from lm_jax.data.rows import Reads
from lm_jax.models.heads import gather
from lm_jax.models.interface import Inputs
from lm_jax.models.model import Bound
from lm_jax.objectives.base import (
    Batch,
    Field,
    Loss,
    Objective,
    Part,
    Vocabulary,
    Work,
    accuracy,
    balanced,
    counted,
    padded,
    per_weight,
    weighted,
)
from lm_jax.objectives.cross_entropy import cross_entropy, token_loss
from lm_jax.objectives.roles import Role


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedConfig:
    """Settings of the corruption.

    Attributes:
      rate: share of the tokens to predict.
      mask, random: shares of the predicted tokens to replace by the mask and by a random token; the rest is unchanged.
      next_sentence: whether rows are sentence pairs, with next-sentence prediction.
    """

    rate: float = 0.15
    mask: float = 0.8
    random: float = 0.1
    next_sentence: bool = True

    def __post_init__(self):
        if not 0 < self.rate < 1:
            raise InputError(f"config.objective.masked.rate is {self.rate}; expected a share between 0 and 1")
        if self.mask < 0 or self.random < 0 or self.mask + self.random > 1:
            raise InputError(
                f"config.objective.masked.mask {self.mask} and .random {self.random}; expected shares with sum <= 1"
            )


@dataclasses.dataclass(frozen=True)
class Masked(Objective):
    """Rows [CLS] A [SEP] B [SEP], or [CLS] text [SEP] without next-sentence prediction.

    Example:
      >>> vocabulary = Vocabulary(size=100, pad=0, eos=1, cls=2, sep=3, mask=4, ordinary=(5, 100))
      >>> masked = Masked(MaskedConfig(next_sentence=False), vocabulary, length=8)
      >>> row = masked.features({"tokens": np.arange(20, 26)}, np.random.default_rng(2))
      >>> print(row["tokens"], row["positions"], row["labels"])
      [ 2 20 21 22  4 24 25  3] [4 0] [23  0]
    """

    config: MaskedConfig
    vocabulary: Vocabulary
    length: int
    kind: str = "encoder"

    roles = {"model": Role(kinds=("encoder",))}

    def __post_init__(self):
        self._specials()

    @property
    def reads(self) -> Reads:
        """Sentence pairs or packed text, shorter than `length` by the special tokens of a row."""
        pairs = self.config.next_sentence
        return Reads(plan="pairs" if pairs else "packed", length=self.length - (3 if pairs else 2))

    @property
    def terms(self) -> tuple[str, ...]:
        """Metrics whose means add up to the loss."""
        return ("masked_lm_loss", "next_sentence_loss") if self.config.next_sentence else ("masked_lm_loss",)

    @property
    def predictions(self) -> int:
        """The largest number of positions to predict in a row."""
        return max(1, math.ceil(self.length * self.config.rate))

    @property
    def spec(self) -> Mapping[str, Field]:
        """Fields of the features."""
        row, predicted = Field(shape=(self.length,), axes=("length",)), Field(shape=(self.predictions,), used="weights")
        spec = {"tokens": dataclasses.replace(row, ids=True, used="segments"), "types": row, "segments": row}
        spec |= {"positions": predicted, "labels": dataclasses.replace(predicted, ids=True, at="positions")}
        spec["weights"] = dataclasses.replace(predicted, dtype="float32", used="")
        return spec | ({"is_next": Field(), "pairs": Field(dtype="float32")} if self.config.next_sentence else {})

    @property
    def work(self) -> tuple[Work, ...]:
        """The model reads the row and scores the chosen positions; the head of pairs reads the first."""
        heads = Tree(pair=1) if self.config.next_sentence else Tree()
        return (Work(role="model", length=self.length, scored=self.predictions, heads=heads),)

    def features(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`tokens` (corrupted), `types`, `segments` of `length`; `positions`, `labels`, `weights` of `predictions`.

        `labels` are the original tokens. Next-sentence prediction adds the scalars `is_next` and `pairs` (always 1).
        """
        vocabulary = self.vocabulary
        cls, sep, mask = self._specials()
        if self.config.next_sentence:
            first, second = row["first"], row["second"]
            tokens = np.concatenate([[cls], first, [sep], second, [sep]]).astype(np.int32)
            types = np.repeat(np.array([0, 1], np.int32), [len(first) + 2, len(second) + 1])
        else:
            tokens = np.concatenate([[cls], row["tokens"], [sep]]).astype(np.int32)
            types = np.zeros(len(tokens), np.int32)
        candidates = np.flatnonzero((tokens != cls) & (tokens != sep) & (tokens != vocabulary.eos))
        count = min(self.predictions, max(1, round(len(candidates) * self.config.rate)), len(candidates))
        chosen = np.sort(rng.permutation(candidates)[:count])
        labels = tokens[chosen]
        uniform = rng.random(count)
        replaced = np.where(uniform < self.config.mask, mask, labels)
        random_ids = rng.integers(*vocabulary.ordinary, size=count, dtype=np.int32)
        at_random = (uniform >= self.config.mask) & (uniform < self.config.mask + self.config.random)
        tokens[chosen] = np.where(at_random, random_ids, replaced)
        features = {
            "tokens": padded(tokens, self.length, vocabulary.pad),
            "types": padded(types, self.length),
            "segments": padded(np.ones(len(tokens), np.int32), self.length),
            "positions": padded(chosen, self.predictions),
            "labels": padded(labels, self.predictions, vocabulary.pad),
            "weights": counted(count, self.predictions),
        }
        if self.config.next_sentence:
            features["is_next"] = np.asarray(row["is_next"], np.int32)
            features["pairs"] = np.ones((), np.float32)
        return features

    def inputs(self, batch: Batch) -> Inputs:
        """Tokens and types; `segments` are 0 at padding."""
        return Inputs(tokens=batch["tokens"], types=batch["types"], segments=batch["segments"])

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """The number of predicted tokens, and of pairs with next-sentence prediction."""
        weights = {"tokens": batch["weights"].sum()}
        return {**weights, "pairs": batch["pairs"].sum()} if self.config.next_sentence else weights

    def loss(self, models: Mapping[str, Bound], part: Part) -> Loss:
        """Mean loss of the predicted tokens, plus the mean loss of the pairs with next-sentence prediction."""
        model, batch = models["model"], part.batch
        output = model(self.inputs(batch), dropout=part.key)
        hidden = gather(output.hidden, batch["positions"])
        tokens, correct = token_loss(model, hidden, batch["labels"], batch["weights"])
        metrics = {"masked_lm_loss": tokens, "masked_accuracy": correct}
        total = per_weight(tokens.total, part.weights["tokens"])
        if self.config.next_sentence:
            logits = model.head("pair", output.hidden[:, 0])
            pairs = weighted(cross_entropy(logits, batch["is_next"]), batch["pairs"])
            metrics["next_sentence_loss"] = pairs
            metrics["next_sentence_accuracy"] = accuracy(logits, batch["is_next"], batch["pairs"])
            total = total + per_weight(pairs.total, part.weights["pairs"])
        return balanced(total, metrics, output)

    def _specials(self) -> tuple[int, ...]:
        return self.vocabulary.require("masked", "cls", "sep", "mask")
