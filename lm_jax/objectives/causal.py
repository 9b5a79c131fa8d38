"""Next-token prediction: predict each token from those before it (Radford et al. 2018, eq. 1), and three variants.

- `documents`: the documents of a packed row do not see each other (Krell et al. 2021, arXiv:2107.02027; Llama 3,
  Grattafiori et al. 2024, arXiv:2407.21783, section 3.2).
- `prefix`: a prefix language model predicts the tokens after a random prefix, whose tokens attend to each other in both
  directions (Raffel et al. 2020, arXiv:1910.10683, sections 3.2.1 and 3.2.3).
- `middle`: fill-in-the-middle, a transformation of documents (`objectives/middle.py`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError
from lm_jax.data.rows import Reads
from lm_jax.objectives.base import Field, Vocabulary, Work, counted, padded
from lm_jax.objectives.middle import Middle, MiddleConfig
from lm_jax.objectives.roles import Role
from lm_jax.objectives.teacher_forcing import TeacherForced

KEY = "config.objective.causal"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalConfig:
    """Variants of next-token prediction.

    Attributes:
      documents: whether attention, positions and predictions stay within a document. EOS, which ends a document, then
        predicts nothing, so a document's first token is predicted only if `config.conventions.prefix` puts an id before
        it (LLaMA's `<s>`).
      prefix: whether every row begins with a prefix that is not predicted, of 1 to n - 1 of the row's n tokens, drawn
        uniformly. Training requires a layer with the mask "prefix", because other masks ignore it.
      middle: fill-in-the-middle.
    """

    documents: bool = False
    prefix: bool = False
    middle: MiddleConfig = MiddleConfig()

    def __post_init__(self):
        other = "documents" if self.documents else "middle.rate" if self.middle.rate else ""
        if self.prefix and other:
            raise InputError(
                f"{KEY}.prefix and {KEY}.{other} are both set; unset one of them, because a row has one prefix but may "
                "have several documents"
            )


@dataclasses.dataclass(frozen=True)
class Causal(TeacherForced):
    """Rows of length + 1 tokens: the first `length` are the inputs, the last `length` the targets.

    Example:
      >>> vocabulary = Vocabulary(size=100, pad=0, eos=1, ordinary=(2, 100))
      >>> causal = Causal(CausalConfig(), vocabulary, length=4)
      >>> row = causal.features({"tokens": np.array([11, 12, 13])}, np.random.default_rng(0))
      >>> print(row["tokens"], row["targets"], row["weights"])
      [11 12 0 0] [12 13 0 0] [1. 1. 0. 0.]
      >>> packed = Causal(CausalConfig(documents=True), vocabulary, length=5)
      >>> row = packed.features({"tokens": np.array([11, 12, 1, 21, 22, 23])}, np.random.default_rng(0))
      >>> print(row["segments"], row["positions"], row["weights"])
      [1 1 1 2 2] [0 1 2 0 1] [1. 1. 0. 1. 1.]
    """

    config: CausalConfig
    vocabulary: Vocabulary
    length: int
    kind: str = "decoder"

    roles = {"model": Role(kinds=("decoder",))}

    def __post_init__(self):
        _ = self._middle

    @functools.cached_property
    def _count(self) -> Int[np.ndarray, " length"]:
        return np.arange(self.length)

    @functools.cached_property
    def _middle(self) -> Middle | None:
        return Middle(self.config.middle, self.vocabulary) if self.config.middle.rate else None

    @property
    def text(self) -> tuple[str, str] | None:
        """The targets and their weights, if every token of the text is predicted once."""
        config = self.config
        # Without a special id before it, the first token of a document is predicted from nothing.
        unpredicted = config.documents and not self.vocabulary.before
        return None if unpredicted or config.prefix or config.middle.rate else ("targets", "weights")

    @property
    def spec(self) -> Mapping[str, Field]:
        """Fields of the features."""
        row = Field(shape=(self.length,), axes=("length",), ids=True, used="weights")
        spec = {"tokens": row, "targets": row, "weights": dataclasses.replace(row, dtype="float32", ids=False, used="")}
        if self.config.documents:
            segments = dataclasses.replace(row, ids=False, used="")
            spec |= {"segments": segments, "positions": dataclasses.replace(segments, used="segments")}
            spec["tokens"] = dataclasses.replace(row, used="segments")
        if self.config.prefix:
            spec["prefix"] = Field()
        return spec

    @property
    def work(self) -> tuple[Work, ...]:
        """The model reads `length` tokens and scores all of them."""
        return (Work(role="model", length=self.length, scored=self.length),)

    @property
    def reads(self) -> Reads:
        """Windows of length + 1 tokens that overlap by one: the last target is the next row's first input."""
        return Reads(plan="packed", length=self.length + 1, overlap=1)

    def check(self, configs: Mapping[str, Any]) -> None:
        """Raises InputError if the rows have a prefix, and no layer of a model has the mask "prefix"."""
        masks = {block.attention.mask for config in configs.values() for block in config.stack.blocks}
        if self.config.prefix and "prefix" not in masks:
            raise InputError(
                f"{KEY}.prefix is set, but config.model.stack.block.attention.mask is {' and '.join(sorted(masks))}, "
                "which ignores the prefix; use prefix"
            )

    def features(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`tokens`, `targets` and `weights`, each padded to `length`.

        `documents` adds `segments` (1, 2, ...; 0 at padding) and `positions`; `prefix` adds the length of the prefix.
        """
        tokens, pad = row["tokens"], self.vocabulary.pad
        if self._middle is not None:
            tokens = self._middle.rearrange(tokens, self.length + 1, rng)
        features = {
            "tokens": padded(tokens[:-1], self.length, pad),
            "targets": padded(tokens[1:], self.length, pad),
            "weights": counted(len(tokens) - 1, self.length),
        }
        if self.config.documents:
            self._separate(features, tokens[:-1])
        if self.config.prefix:
            # At least one token before the targets, and one target.
            prefix = int(rng.integers(1, max(len(tokens), 2)))
            features["prefix"] = np.array(prefix, np.int32)
            features["weights"][: prefix - 1] = 0
        return features

    def _separate(self, features: dict[str, np.ndarray], tokens: Int[np.ndarray, " tokens"]) -> None:
        """Adds segments and positions, and lets no document predict the next one's first token."""
        segments, positions = np.zeros((2, self.length), np.int32)
        last = np.flatnonzero(tokens == self.vocabulary.eos)
        start = 0
        for number, stop in enumerate([*(last + 1).tolist(), len(tokens)], 1):
            segments[start:stop] = number
            positions[start:stop] = self._count[: stop - start]
            start = stop
        features["weights"][last] = 0
        features |= {"segments": segments, "positions": positions}
