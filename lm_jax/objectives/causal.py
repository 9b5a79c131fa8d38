"""Causal language modelling: predict each token from those before it (Radford et al. 2018, eq. 1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from lm_jax.data.rows import Reads
from lm_jax.models.interface import Inputs
from lm_jax.objectives.base import Batch, Field, Vocabulary, Work, counted, padded
from lm_jax.objectives.roles import Role
from lm_jax.objectives.written import Written


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalConfig:
    """Nothing to choose."""


@dataclasses.dataclass(frozen=True)
class Causal(Written):
    """Rows of length + 1 tokens: the first `length` are read, the last `length` predicted."""

    config: CausalConfig
    vocabulary: Vocabulary
    length: int

    roles = {"model": Role(kinds=("decoder",))}
    text = ("targets", "weights")

    @property
    def spec(self) -> Mapping[str, Field]:
        """Fields of the features."""
        row = Field(shape=(self.length,), axes=("length",))
        return {"tokens": row, "targets": row, "weights": dataclasses.replace(row, dtype="float32")}

    @property
    def work(self) -> tuple[Work, ...]:
        """Every token is read and scored."""
        return (Work(role="model", length=self.length, scored=self.length),)

    @property
    def reads(self) -> Reads:
        """One token more than the model reads: the last target is the next row's first token."""
        return Reads(plan="packed", length=self.length + 1, overlap=1)

    def features(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Tokens, targets and weights, each of `length`."""
        tokens = row["tokens"]
        targets = tokens[1:]
        return {
            "tokens": padded(tokens[:-1], self.length, self.vocabulary.pad),
            "targets": padded(targets, self.length, self.vocabulary.pad),
            "weights": counted(len(targets), self.length),
        }

    def inputs(self, batch: Batch) -> Inputs:
        """The tokens: padding stands at the end, where no token with a weight can see it."""
        return Inputs(tokens=batch["tokens"])
