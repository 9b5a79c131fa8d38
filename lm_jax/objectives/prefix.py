"""Prefix language modelling: continue a text from its first part (Raffel et al. 2020, arXiv:1910.10683, section 3.2.3).

UL2 calls it S-denoising (Tay et al. 2022, arXiv:2205.05131, section 3.1.2).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from lm_jax.core.config import InputError
from lm_jax.data.rows import Reads
from lm_jax.objectives.base import Vocabulary, enclosed
from lm_jax.objectives.roles import Role
from lm_jax.objectives.teacher_forcing import SourceTarget, opening_ids

KEY = "config.objective.prefix"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixConfig:
    """Settings of the cut.

    Attributes:
      rate: mean share of the text that is the target. The target's length is uniform, from one token to twice the mean;
        0.5: the cut is anywhere, as in T5.
      mode: piece that begins every source, such as a mode token of UL2; empty: none.
    """

    rate: float = 0.5
    mode: str = ""

    def __post_init__(self):
        if not 0 < self.rate <= 0.5:
            raise InputError(f"{KEY}.rate is {self.rate}; expected a share above 0, at most 0.5")


@dataclasses.dataclass(frozen=True)
class Prefix(SourceTarget):
    """Source: the first part of the text. Target: the rest, then EOS.

    Example:
      >>> prefix = Prefix(PrefixConfig(), Vocabulary(size=100, pad=0, eos=1, ordinary=(2, 100)), length=6)
      >>> row = prefix.features({"tokens": np.arange(20, 26)}, np.random.default_rng(0))
      >>> print(row["source"], row["targets"])
      [20  1  0  0  0  0] [21 22 23 24 25  1]
    """

    config: PrefixConfig
    vocabulary: Vocabulary
    length: int
    kind: str = "encoder_decoder"

    roles = {"model": Role(kinds=("encoder_decoder", "decoder"))}

    def __post_init__(self):
        if self.reads.length < 2:
            raise InputError(
                f"config.data.length is {self.length}; expected at least {self.length + 2 - self.reads.length}: two "
                "tokens of text and the special tokens"
            )

    @functools.cached_property
    def opening(self) -> tuple[int, ...]:
        """The ids before the text of every source."""
        return opening_ids(self.vocabulary, self.config.mode, f"{KEY}.mode")

    @functools.cached_property
    def reads(self) -> Reads:
        """The longest text that fits, wherever it is cut."""
        special = len(self.opening) + len(self.vocabulary.closing)
        # An encoder reads all tokens but one, a decoder all of them; the last target, EOS, is no input.
        tokens = self.length - special + (1 if self.kind == "encoder_decoder" else 0)
        return Reads(plan="packed", length=tokens)

    @functools.cached_property
    def target_length(self) -> int:
        """The longest target, with EOS."""
        return self._longest(self.reads.length) + 1

    def features(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The features of `SourceTarget.arrange`."""
        tokens, vocabulary = row["tokens"].astype(np.int32), self.vocabulary
        # The last row of a split may be a single token, which is then the target.
        cut = len(tokens) - int(rng.integers(1, self._longest(len(tokens)) + 1))
        source = enclosed(self.opening, tokens[:cut], vocabulary.closing)
        return self.arrange(source, enclosed((), tokens[cut:], (vocabulary.eos,)))

    def _longest(self, tokens: int) -> int:
        return max(1, min(round(2 * self.config.rate * tokens), tokens - 1))
