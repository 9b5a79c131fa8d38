"""Causal language modelling: predict each token from those before it (Radford et al. 2018, eq. 1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from lm_jax.data.rows import Reads
from lm_jax.objectives.base import Field, Vocabulary, Work, counted, padded
from lm_jax.objectives.roles import Role
from lm_jax.objectives.teacher_forcing import TeacherForced


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalConfig:
    """No settings."""


@dataclasses.dataclass(frozen=True)
class Causal(TeacherForced):
    """Rows of length + 1 tokens: the first `length` are the inputs, the last `length` the targets.

    Example:
      >>> causal = Causal(CausalConfig(), Vocabulary(size=100, pad=0, eos=1, ordinary=(2, 100)), length=4)
      >>> row = causal.features({"tokens": np.array([11, 12, 13])}, np.random.default_rng(0))
      >>> print(row["tokens"], row["targets"], row["weights"])
      [11 12 0 0] [12 13 0 0] [1. 1. 0. 0.]
    """

    config: CausalConfig
    vocabulary: Vocabulary
    length: int
    kind: str = "decoder"

    roles = {"model": Role(kinds=("decoder",))}
    text = ("targets", "weights")

    @property
    def spec(self) -> Mapping[str, Field]:
        """Fields of the features."""
        row = Field(shape=(self.length,), axes=("length",), ids=True, used="weights")
        return {"tokens": row, "targets": row, "weights": dataclasses.replace(row, dtype="float32", ids=False, used="")}

    @property
    def work(self) -> tuple[Work, ...]:
        """The model reads `length` tokens and scores all of them."""
        return (Work(role="model", length=self.length, scored=self.length),)

    @property
    def reads(self) -> Reads:
        """Windows of length + 1 tokens that overlap by one: the last target is the next row's first input."""
        return Reads(plan="packed", length=self.length + 1, overlap=1)

    def features(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`tokens`, `targets` and `weights`, each padded to `length`."""
        tokens, pad = row["tokens"], self.vocabulary.pad
        return {
            "tokens": padded(tokens[:-1], self.length, pad),
            "targets": padded(tokens[1:], self.length, pad),
            "weights": counted(len(tokens) - 1, self.length),
        }
