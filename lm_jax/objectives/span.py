"""Span corruption (Raffel et al. 2020, arXiv:1910.10683, sections 3.1.4 and 3.3.4): sentinels replace the spans."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from lm_jax.core.config import InputError
from lm_jax.data.rows import Reads
from lm_jax.objectives.base import Vocabulary, enclosed, inserted, runs
from lm_jax.objectives.roles import Role
from lm_jax.objectives.teacher_forcing import SourceTarget, opening_ids


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanConfig:
    """Settings of the corruption.

    Attributes:
      rate: share of tokens to remove.
      mean_span: mean length of a removed span, in tokens.
      mode: piece that begins every source, such as a mode token of UL2 (Tay et al. 2022, section 3.1.3); empty: none.
    """

    rate: float = 0.15
    mean_span: float = 3.0
    mode: str = ""

    def __post_init__(self):
        if not 0 < self.rate < 1:
            raise InputError(f"config.objective.span.rate is {self.rate}; expected a share between 0 and 1")
        if self.mean_span < 1:
            raise InputError(f"config.objective.span.mean_span is {self.mean_span}; expected at least 1 token")


@dataclasses.dataclass(frozen=True)
class Span(SourceTarget):
    """Source: the text with a sentinel for each removed span. Target: each sentinel with its span, then EOS.

    Example:
      >>> vocabulary = Vocabulary(size=100, pad=0, eos=1, sentinels=(98, 99), ordinary=(2, 98))
      >>> span = Span(SpanConfig(), vocabulary, length=10)
      >>> row = span.features({"tokens": np.arange(20, 30)}, np.random.default_rng(0))
      >>> print(row["source"], row["targets"])
      [20 21 22 23 24 25 26 98 29  1] [98 27 28  1]
    """

    config: SpanConfig
    vocabulary: Vocabulary
    length: int
    kind: str = "encoder_decoder"

    roles = {"model": Role(kinds=("encoder_decoder", "decoder"))}

    def __post_init__(self):
        least, decoder = 2 + len(self.opening) + len(self.vocabulary.closing), self.kind == "decoder"
        least += self._target_length(2) - 1 if decoder else 0
        if self.length < least:
            raise InputError(
                f"config.data.length is {self.length}; expected at least {least}: a token, a sentinel, special tokens"
                + (" and the target" if decoder else "")
            )
        spans = self._spans(self.reads.length)[1]
        if spans > len(self.vocabulary.sentinels):
            raise InputError(
                f"rows of {self.length} tokens need {spans} sentinels, the tokenizer has "
                f"{len(self.vocabulary.sentinels)}; set config.data.tokenizer.sentinels={spans} or more"
            )

    @functools.cached_property
    def opening(self) -> tuple[int, ...]:
        """The ids before the text of every source."""
        return opening_ids(self.vocabulary, self.config.mode, "config.objective.span.mode")

    @functools.cached_property
    def reads(self) -> Reads:
        """The longest text whose corrupted source, and for a decoder its target too, fit into `length` tokens."""
        tokens = self.length
        # With short rows or short spans, the source is longer than the text.
        while tokens > 1 and not self._fits(tokens):
            tokens -= 1
        while self._fits(tokens + 1):
            tokens += 1
        return Reads(plan="packed", length=tokens)

    @functools.cached_property
    def target_length(self) -> int:
        """Target length of a full row: removed tokens, sentinels and EOS."""
        return self._target_length(self.reads.length)

    def features(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The features of `SourceTarget.arrange`."""
        tokens, vocabulary = row["tokens"].astype(np.int32), self.vocabulary
        noise, spans = self._spans(len(tokens))
        span_lengths = _partition(noise, spans, rng)
        gap_lengths = _partition(len(tokens) - noise, spans, rng)
        if all(spans in (1, most) for most in (noise, len(tokens) - noise)):
            # With a single possible masking, a span would always end the row, so a random number of the first unmasked
            # tokens moves behind it.
            gap_lengths[0] -= rng.integers(0, gap_lengths[0] + 1)
        gaps, sentinels = np.cumsum(gap_lengths), np.array(vocabulary.sentinels[: len(gap_lengths)], np.int32)
        before = np.cumsum(span_lengths) - span_lengths
        removed = runs(gaps + before, span_lengths, len(tokens))
        source = inserted(tokens[~removed], gaps, sentinels)
        target = inserted(tokens[removed], before, sentinels)
        source = enclosed(self.opening, source, vocabulary.closing)
        return self.arrange(source, enclosed((), target, (vocabulary.eos,)))

    def _spans(self, tokens: int) -> tuple[int, int]:
        """The numbers of removed tokens and of spans in a text of `tokens`."""
        noise = min(max(round(tokens * self.config.rate), 1), max(tokens - 1, 1))
        spans = min(max(round(noise / self.config.mean_span), 1), max(tokens - noise, 1))
        return noise, spans

    def _fits(self, tokens: int) -> bool:
        noise, spans = self._spans(tokens)
        source = tokens - noise + spans + len(self.opening) + len(self.vocabulary.closing)
        return self.fits(source, self._target_length(tokens))

    def _target_length(self, tokens: int) -> int:
        return sum(self._spans(tokens)) + 1


def _partition(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """`total` as a sum of `parts` positive integers, drawn uniformly from all such sums."""
    parts = min(parts, total)
    if total < 2:
        return np.array([total])
    cuts = rng.permutation(total - 1)[: parts - 1]
    cuts.sort()
    cuts += 1
    lengths = enclosed((), cuts, (total,))
    lengths[1:] -= cuts
    return lengths
