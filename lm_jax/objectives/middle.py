"""Fill-in-the-middle (Bavarian et al. 2022, arXiv:2207.14255, section 3): a span of a document moves to its end.

Two uniform positions divide a document into prefix, middle and suffix. With the markers <P>, <S> and <M> it becomes

    <P> prefix <S> suffix <M> middle EOS    (PSM), or
    <P> <S> suffix <M> prefix middle EOS    (SPM; of the paper's two variants the one that it trains, appendix D).

The positions lie between tokens; the paper prefers characters (section 4.5), whose borders ids do not show. Rows are
transformed after they are cut from the text (context-level FIM, section 3.2), so the part of a longer document that a
row holds counts as a document.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError, setting
from lm_jax.objectives.base import Vocabulary

KEY = "config.objective.causal.middle"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MiddleConfig:
    """Settings of fill-in-the-middle.

    The markers are pieces of the tokenizer; `config.data.tokenizer.add` adds them. An occurrence of such a name in a
    text becomes the marker too.

    Attributes:
      rate: share of the documents to transform; 0: off. The paper uses 0.5 (section 3) and advises up to 0.9.
      suffix_first: share of the transformed documents in SPM order (section 4.3).
      prefix, suffix, middle: pieces of the tokenizer that mark the three parts.
    """

    rate: float = setting(0.0, at_least=0, at_most=1)
    suffix_first: float = setting(0.5, at_least=0, at_most=1)
    prefix: str = "<fim_prefix>"
    suffix: str = "<fim_suffix>"
    middle: str = "<fim_middle>"


@dataclasses.dataclass(frozen=True)
class Middle:
    """Fill-in-the-middle for the ids of a vocabulary.

    Raises:
      InputError: the tokenizer lacks a marker, or two markers are the same piece.

    Example:
      >>> pieces = ["[PAD]", "[EOS]", "<fim_prefix>", "<fim_suffix>", "<fim_middle>"]
      >>> vocabulary = Vocabulary(size=100, pad=0, eos=1, ordinary=(5, 100), pieces=pieces)
      >>> middle = Middle(MiddleConfig(rate=1.0), vocabulary)
      >>> print(middle.rearrange(np.array([11, 12, 13, 14, 15, 16, 1]), 10, np.random.default_rng(8)))
      [ 2 11 12  3 16  4 13 14 15  1]
    """

    config: MiddleConfig
    vocabulary: Vocabulary

    def __post_init__(self):
        if len({marker.item() for marker in self.markers}) < 3:
            raise InputError(f"{KEY}.prefix, .suffix and .middle name the same piece; expected three different pieces")

    @functools.cached_property
    def markers(self) -> tuple[Int[np.ndarray, " 1"], ...]:
        """The ids of the markers of prefix, suffix and middle."""
        names = ("prefix", "suffix", "middle")
        ids = (self.vocabulary.find(getattr(self.config, name), f"{KEY}.{name}") for name in names)
        return tuple(np.array([token], np.int32) for token in ids)

    def rearrange(
        self, tokens: Int[np.ndarray, " tokens"], most: int, rng: np.random.Generator
    ) -> Int[np.ndarray, " rearranged"]:
        """Transforms a random share of a row's documents, which end with EOS.

        Args:
          tokens: documents; the first may lack its beginning, and the last its end.
          most: maximum length of the result. A document that no longer fits is shortened before it is divided, so that
            it has all its parts, or not transformed if the markers leave no room for text.
          rng: draws four numbers for every document.
        """
        prefix, suffix, middle = self.markers
        borders = [*np.flatnonzero(tokens == self.vocabulary.eos).tolist(), len(tokens)]
        draws = rng.random((len(borders), 4)).tolist()
        parts, position, start, room = [], 0, 0, most
        for border, (choice, order, *cuts) in zip(borders, draws, strict=True):
            text, stop = start + self._before(tokens, start), min(border, start + room - len(self.markers))
            if choice < self.config.rate and text < stop:
                left, right = sorted(text + int(cut * (stop - text + 1)) for cut in cuts)
                if order < self.config.suffix_first:
                    moved = (prefix, suffix, tokens[right:stop], middle, tokens[text:right])
                else:
                    moved = (prefix, tokens[text:left], suffix, tokens[right:stop], middle, tokens[left:right])
                parts += [tokens[position:text], *moved]
                position, room = stop, room - len(self.markers)
            room -= border + 1 - start
            start = border + 1
            if room <= 0:
                break
        return np.concatenate([*parts, tokens[position:]])[:most]

    def _before(self, tokens: Int[np.ndarray, " tokens"], start: int) -> int:
        """The number of special ids before the text of a document; they stay in front of the markers."""
        before = self.vocabulary.before
        return len(before) if before and tuple(tokens[start : start + len(before)].tolist()) == before else 0
