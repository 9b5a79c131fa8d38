"""Permutation language modelling (Yang et al. 2019, arXiv:1906.08237, sections 2.2-2.5 and 3.1), as in XLNet.

The tokens of a row are predicted in a random factorisation order, each from the tokens before it in that order. A row
holds the order as a rank per token, and the model derives from ranks what each of its two streams attends to.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from lm_jax.core.config import InputError, lookup, setting
from lm_jax.data.rows import Reads
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
    balanced,
    counted,
    padded,
    per_weight,
)
from lm_jax.objectives.choose import ChooseConfig, lengths
from lm_jax.objectives.cross_entropy import token_loss
from lm_jax.objectives.roles import Role

# The types of A and B are 0 and 1, as in the released code.
CLS_TYPE = 2
# Distributions of span lengths in `choose`: section 3.1 draws a length; the released code draws short ones more often.
LENGTHS = {"uniform": "uniform", "inverse": "harmonic"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PermutationConfig:
    """Settings of the prediction; the defaults are the paper's.

    Attributes:
      one_in: one token in `one_in` is predicted (K in section 2.3; 6 in appendix A.4.1).
      longest: length of the longest span of predicted tokens (section 3.1).
      lengths: "uniform" (section 3.1), or "inverse": a span of length n has probability proportional to 1 / n, as in
        the released code.
      whole_words: spans are of words, not of tokens. Words that do not fit into the fixed number of targets are not
        predicted, so that about a tenth fewer tokens are. In the released code, which means to keep words whole, spans
        begin at words but may end inside of one.
      pairs: rows are pairs of segments, half of them from two documents (section 2.5, as BERT); False: packed text.
        XLNet-Large does not predict which pairs are consecutive, and neither does this objective.
    """

    one_in: int = setting(6, at_least=1)
    longest: int = setting(5, at_least=1)
    lengths: str = "uniform"
    whole_words: bool = False
    pairs: bool = True

    def __post_init__(self):
        lookup(LENGTHS, self.lengths, "config.objective.permutation.lengths")


@dataclasses.dataclass(frozen=True)
class Permutation(Objective):
    """Rows A [SEP] B [SEP] [CLS], or text [SEP] [CLS]; the query stream predicts spans of tokens.

    Ranks are those of the released code: context tokens have rank 0, so all tokens attend to them and they attend to
    each other only; targets and the special tokens [SEP] and [CLS] have the ranks 1, 2, ... in random order. Special
    tokens are never predicted, but context tokens do not attend to them, and a target only if it has a higher rank. A
    row of at least two tokens always has a context token, because a target without any token before it would have
    nothing to attend to. EOS between packed documents is predicted as any other token.

    Example:
      >>> vocabulary = Vocabulary(size=100, pad=0, eos=1, cls=2, sep=3, ordinary=(4, 100))
      >>> permutation = Permutation(PermutationConfig(one_in=3, pairs=False), vocabulary, length=8)
      >>> row = permutation.features({"tokens": np.arange(20, 26)}, np.random.default_rng(0))
      >>> print(row["tokens"], row["ranks"], row["targets"], row["labels"])
      [20 21 22 23 24 25  3  2] [1 4 0 0 0 0 3 2] [0 1] [20 21]
    """

    config: PermutationConfig
    vocabulary: Vocabulary
    length: int
    kind: str = "encoder"

    roles = {"model": Role(kinds=("encoder",))}
    terms = ("loss",)

    def __post_init__(self):
        _ = self._specials
        if self.config.whole_words and self.vocabulary.starts_word is None:
            raise InputError(
                "config.objective.permutation.whole_words is true, but the tokenizer does not tell which pieces begin "
                "a word; set it to false, or use another tokenizer"
            )

    @functools.cached_property
    def reads(self) -> Reads:
        """Pairs of segments or packed text, shorter than `length` by the special tokens of a row."""
        pairs = self.config.pairs
        return Reads(plan="pairs" if pairs else "packed", length=self.length - (3 if pairs else 2))

    @functools.cached_property
    def predictions(self) -> int:
        """The number of targets of a full row."""
        return max(1, round(self.reads.length / self.config.one_in))

    @property
    def spec(self) -> Mapping[str, Field]:
        """Fields of the features."""
        row = Field(shape=(self.length,), axes=("length",), used="segments")
        predicted = Field(shape=(self.predictions,), used="weights")
        spec = {"tokens": dataclasses.replace(row, ids=True), "types": row, "ranks": row}
        spec |= {"segments": dataclasses.replace(row, used=""), "targets": predicted}
        spec["labels"] = dataclasses.replace(predicted, ids=True, at="targets")
        return {**spec, "weights": dataclasses.replace(predicted, dtype="float32", used="")}

    @property
    def work(self) -> tuple[Work, ...]:
        """The content stream reads the row; the query stream has a row per target, and all of them are scored."""
        return (Work(role="model", length=self.length, scored=self.predictions, targets=self.predictions),)

    def features(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`tokens`, `types`, `ranks`, `segments` of `length`; `targets`, `labels`, `weights` of `predictions`.

        `targets` are positions in `tokens` in ascending order; unused ones are -1. The types of A, B and [CLS] differ.
        """
        cls, sep = self._specials
        texts = (row["first"], row["second"]) if self.config.pairs else (row["tokens"],)
        tokens = np.full(self.length, self.vocabulary.pad, np.int32)
        types, ranks, segments = (np.zeros(self.length, np.int32) for _ in range(3))
        special, start = [], 0
        for number, text in enumerate(texts):
            stop = start + len(text)
            tokens[start:stop], tokens[stop], types[start : stop + 1] = text, sep, number
            special.append(stop)
            start = stop + 1
        tokens[start], types[start], segments[: start + 1] = cls, CLS_TYPE, 1
        special.append(start)
        targets = self.choose(np.concatenate(texts), rng)
        if self.config.pairs:
            # Positions in the row, in which A's [SEP] is before B.
            targets = targets + (targets >= special[0])
        order = rng.permutation(len(targets) + len(special)) + 1
        ranks[targets], ranks[special] = order[: len(targets)], order[len(targets) :]
        return {
            "tokens": tokens,
            "types": types,
            "ranks": ranks,
            "segments": segments,
            "targets": padded(targets, self.predictions, -1),
            "labels": padded(tokens[targets], self.predictions, self.vocabulary.pad),
            "weights": counted(len(targets), self.predictions),
        }

    def choose(self, text: Int[np.ndarray, " tokens"], rng: np.random.Generator) -> Int[np.ndarray, " targets"]:
        """The tokens of a text to predict, in ascending order: the rounded share 1 / `one_in`, but never all."""
        goal, starts_word = min(self._goal(len(text)), self.predictions), self.vocabulary.starts_word
        if not self.config.whole_words or starts_word is None:
            return _members(*self.spans(len(text), goal, rng))
        begins = starts_word[text]
        begins[:1] = True
        starts = begins.nonzero()[0]
        sizes = np.concatenate([starts[1:], [len(text)]]) - starts
        words = rng.permutation(_members(*self.spans(len(starts), self._goal(len(starts)), rng)))
        words = np.sort(words[sizes[words].cumsum() <= goal])
        return _members(starts[words], sizes[words])

    def spans(
        self, size: int, goal: int, rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, " spans"], Int[np.ndarray, " spans"]]:
        """Starts and lengths of disjoint spans that hold `goal` of `size` tokens (or words), in ascending order.

        A row is divided into contexts, `one_in` times as long as their spans, which lie anywhere in them (section 3.1).
        One of the spans is shortened to meet the goal, and its context is adapted so that the contexts fill the row.
        """
        if not goal:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        lengths = 1 + self._cumulative.searchsorted(rng.random(goal), "right")
        totals = lengths.cumsum()
        count = int(totals.searchsorted(goal)) + 1
        lengths, shortened = lengths[:count], lengths[count - 1] - totals[count - 1] + goal
        place = int(rng.integers(count))
        lengths[-1] = lengths[place]
        lengths[place] = shortened
        contexts = self.config.one_in * lengths
        contexts[place] += size - self.config.one_in * goal
        places = (rng.random(count) * (contexts - lengths + 1)).astype(np.int64)
        return contexts.cumsum() - contexts + places, lengths

    def inputs(self, batch: Batch) -> Inputs:
        """Tokens, types and ranks with the targets of the query stream; `segments` are 0 at padding."""
        rows = {name: batch[name] for name in ("types", "ranks", "segments", "targets")}
        return Inputs(tokens=batch["tokens"], source=None, **rows)

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """The number of targets."""
        return {"targets": batch["weights"].sum()}

    def loss(self, models: Mapping[str, Bound], part: Part) -> Loss:
        """Mean -log P(target | tokens of lower rank) (eq. 5)."""
        model, batch = models["model"], part.batch
        output = model(self.inputs(batch), dropout=part.key)
        loss, correct = token_loss(model, output.hidden, batch["labels"], batch["weights"])
        total = per_weight(loss.total, part.weights["targets"])
        return balanced(total, {"loss": loss, "accuracy": correct}, output)

    def _goal(self, size: int) -> int:
        return max(0, min(max(1, round(size / self.config.one_in)), size - 1))

    @functools.cached_property
    def _cumulative(self) -> Float[np.ndarray, " lengths"]:
        """The probability of each span length or a shorter one."""
        settings = ChooseConfig(run=LENGTHS[self.config.lengths], longest=self.config.longest)
        cumulative = np.cumsum(lengths(settings))
        # Rounding must not leave a gap below 1.
        cumulative[-1] = 1.0
        return cumulative

    @functools.cached_property
    def _specials(self) -> tuple[int, ...]:
        return self.vocabulary.require("permutation", "cls", "sep")


def _members(starts: Int[np.ndarray, " spans"], lengths: Int[np.ndarray, " spans"]) -> Int[np.ndarray, " members"]:
    """The positions in spans, span by span."""
    totals = lengths.cumsum()
    return (starts - totals + lengths).repeat(lengths) + np.arange(totals[-1] if len(totals) else 0)
