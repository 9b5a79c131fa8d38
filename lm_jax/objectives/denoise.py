"""BART's denoising: restore a text that noise has changed (Lewis et al. 2020, arXiv:1910.13461, section 2.2)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError, lookup, setting
from lm_jax.data.rows import Reads
from lm_jax.objectives.base import Vocabulary, enclosed, inserted, runs
from lm_jax.objectives.roles import Role
from lm_jax.objectives.teacher_forcing import SourceTarget, opening_ids

KEY = "config.objective.denoise"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoiseConfig:
    """Settings of the noise; the defaults are those of the large model (sections 2.2, 5.1).

    Attributes:
      noises: names of `NOISES`, which are applied in the order of that table.
      rate: mean share of the tokens that `mask`, `delete` and `infill` each change.
      mean_span: mean length of the spans of `infill`, in tokens.
      mode: piece that begins every source, such as a mode token of UL2; empty: none.
    """

    noises: tuple[str, ...] = ("permute", "infill")
    rate: float = setting(0.3, at_least=0, at_most=1)
    mean_span: float = setting(3.0, at_least=1)
    mode: str = ""

    def __post_init__(self):
        for name in self.noises:
            lookup(NOISES, name, f"{KEY}.noises")
        if not self.noises or len(set(self.noises)) < len(self.noises):
            raise InputError(f"{KEY}.noises is {self.noises}; expected distinct names of {', '.join(NOISES)}")


@dataclasses.dataclass(frozen=True)
class Denoise(SourceTarget):
    """Source: the text with noise. Target: the whole text, between the ids that begin and end a source.

    Example:
      >>> vocabulary = Vocabulary(size=100, pad=0, eos=1, mask=4, ordinary=(5, 100))
      >>> denoise = Denoise(DenoiseConfig(noises=("infill",)), vocabulary, length=10)
      >>> row = denoise.features({"tokens": np.arange(20, 29)}, np.random.default_rng(0))
      >>> print(row["source"], row["targets"])
      [20 21 22 23 24 25 26 27  4  1] [20 21 22 23 24 25 26 27 28  1]
    """

    config: DenoiseConfig
    vocabulary: Vocabulary
    length: int
    kind: str = "encoder_decoder"

    roles = {"model": Role(kinds=("encoder_decoder", "decoder"))}
    text = ("targets", "weights")

    def __post_init__(self):
        _ = self.mask
        if self.reads.length < 1:
            raise InputError(
                f"config.data.length is {self.length}; expected at least {self.length + 1 - self.reads.length}: a "
                "token of text and the special tokens"
            )

    @functools.cached_property
    def opening(self) -> tuple[int, ...]:
        """The ids before the text of every source."""
        return opening_ids(self.vocabulary, self.config.mode, f"{KEY}.mode")

    @functools.cached_property
    def mask(self) -> int:
        """The id of the mask; unused, and 0, if no noise needs it."""
        needed = {"mask", "infill"} & set(self.config.noises)
        return self.vocabulary.require("denoise", "mask")[0] if needed else 0

    @functools.cached_property
    def begins(self) -> tuple[int, ...]:
        """The ids before the text of every target; none in a decoder's row, whose source has them."""
        return self.vocabulary.before if self.kind == "encoder_decoder" else ()

    @functools.cached_property
    def reads(self) -> Reads:
        """The longest text that fits with its special tokens, for a decoder twice; noise never makes it longer."""
        special = len(self.opening) + len(self.vocabulary.closing)
        if self.kind == "encoder_decoder":
            tokens = self.length - special
        else:
            tokens = (self.length + 1 - special - len(self.vocabulary.closing)) // 2
        return Reads(plan="packed", length=tokens, borders="permute" in self.config.noises)

    @functools.cached_property
    def target_length(self) -> int:
        """The whole text, with its special tokens."""
        return self.reads.length + len(self.begins) + len(self.vocabulary.closing)

    def features(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The features of `SourceTarget.arrange`."""
        tokens, closing = row["tokens"].astype(np.int32), self.vocabulary.closing
        source = tokens
        for noise in self._noises:
            source = noise(source, self, row, rng)
        return self.arrange(enclosed(self.opening, source, closing), enclosed(self.begins, tokens, closing))

    @functools.cached_property
    def _noises(self) -> tuple[Noise, ...]:
        return tuple(noise for name, noise in NOISES.items() if name in self.config.noises)


# Changes the tokens of a row, given the objective.
Noise = Callable[[np.ndarray, Denoise, Mapping[str, Any], np.random.Generator], np.ndarray]


def permute(
    tokens: Int[np.ndarray, " tokens"], denoise: Denoise, row: Mapping[str, Any], rng: np.random.Generator
) -> Int[np.ndarray, " tokens"]:
    """Puts the sentences of a row, of which the first and the last may be incomplete, in random order."""
    starts = row["sentences"]
    begins = [] if len(starts) and starts[0] == 0 else [0]
    bounds = enclosed(begins, starts, (len(tokens),))
    order = rng.permutation(len(bounds) - 1)
    starts, stops = bounds[:-1][order], bounds[1:][order]
    sizes = stops - starts
    return tokens[(stops - sizes.cumsum()).repeat(sizes) + np.arange(len(tokens))]


def mask(
    tokens: Int[np.ndarray, " tokens"], denoise: Denoise, row: Mapping[str, Any], rng: np.random.Generator
) -> Int[np.ndarray, " tokens"]:
    """Replaces random tokens by masks."""
    tokens = tokens.copy()
    tokens[_chosen(len(tokens), denoise.config.rate, rng)] = denoise.mask
    return tokens


def delete(
    tokens: Int[np.ndarray, " tokens"], denoise: Denoise, row: Mapping[str, Any], rng: np.random.Generator
) -> Int[np.ndarray, " fewer"]:
    """Removes random tokens."""
    kept = np.ones(len(tokens), bool)
    kept[_chosen(len(tokens), denoise.config.rate, rng)] = False
    return tokens[kept]


def infill(
    tokens: Int[np.ndarray, " tokens"], denoise: Denoise, row: Mapping[str, Any], rng: np.random.Generator
) -> Int[np.ndarray, " other"]:
    """Replaces random spans by one mask each; a span of no tokens inserts a mask.

    Lengths follow a Poisson distribution, so the share of tokens in spans is the rate on average, not in every row. A
    span's length counts tokens, not words as in the released code. Insertions that would make the row longer than the
    longest text are left out.
    """
    count, mean = len(tokens), denoise.config.mean_span
    lengths = rng.poisson(mean, _rounded(count * denoise.config.rate / mean, rng))
    stops = lengths.cumsum()
    total = int(stops[-1]) if len(stops) else 0
    if total > count:
        lengths, total = np.diff(np.minimum(stops, count), prepend=0), count
    excess = count - total + len(lengths) - denoise.reads.length
    if excess > 0:
        lengths = np.delete(lengths, (lengths == 0).nonzero()[0][:excess])
    # Of the unmasked tokens and the spans, which are the spans?
    places = rng.permutation(count - total + len(lengths))[: len(lengths)]
    places.sort()
    before = places - np.arange(len(lengths))
    removed = runs(before + lengths.cumsum() - lengths, lengths, count)
    return inserted(tokens[~removed], before, denoise.mask)


def rotate(
    tokens: Int[np.ndarray, " tokens"], denoise: Denoise, row: Mapping[str, Any], rng: np.random.Generator
) -> Int[np.ndarray, " tokens"]:
    """Begins the row with a random token; the tokens before that follow at the end."""
    return np.roll(tokens, -int(rng.integers(len(tokens)))) if len(tokens) else tokens


# Sentences are permuted first, because their borders are those of the original text.
NOISES: Mapping[str, Noise] = {
    "permute": permute,
    "mask": mask,
    "delete": delete,
    "infill": infill,
    "rotate": rotate,
}


def _rounded(number: float, rng: np.random.Generator) -> int:
    """`number` rounded down or up at random, so that the mean is `number`."""
    return int(number + rng.random())


def _chosen(count: int, rate: float, rng: np.random.Generator) -> Int[np.ndarray, " chosen"]:
    return rng.permutation(count)[: _rounded(count * rate, rng)]
