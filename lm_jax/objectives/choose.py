"""Which tokens of a row to predict: units that stay together, and runs of consecutive units.

A unit is a token, a whole word (whole-word masking, in the released code of BERT) or a span of a column (the phrases
and entities of ERNIE, Sun et al. 2019, arXiv:1904.09223, section 3.2). A run is one unit, or as many as a length drawn
from a distribution: SpanBERT's (Joshi et al. 2020, arXiv:1907.10529, section 3.1), ALBERT's (Lan et al. 2020,
arXiv:1909.11942, section 4.1) or XLNet's (Yang et al. 2019, arXiv:1906.08237, section 3.1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from lm_jax.core.config import lookup, setting
from lm_jax.data.words import borders
from lm_jax.objectives.base import Vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChooseConfig:
    """Settings of units and runs.

    Attributes:
      unit: "token", "word" or "span": what is predicted as a whole or not at all. With spans, a token outside of all
        spans is a unit of its own; of spans that overlap, the one that begins first is a unit.
      run: the number of consecutive units of a run: "one", "geometric" (SpanBERT: longest=10), "harmonic", p(n) ~ 1/n
        (ALBERT: longest=3), or "uniform" (XLNet: longest=5).
      longest: the largest number of units of a run.
      stop: p of the geometric distribution, p(n) ~ p (1 - p)^(n - 1).
      words: where words begin: "pieces", at the tokenizer's pieces that begin a word, among them every Chinese
        character; "rjieba": at Chinese words too, found by that library.
    """

    unit: str = "token"
    run: str = "one"
    longest: int = setting(10, at_least=1)
    stop: float = setting(0.2, above=0, below=1)
    words: str = "pieces"


class Runs(NamedTuple):
    """Disjoint runs of tokens starts[i]..stops[i] - 1, in ascending order.

    Example:
      >>> Runs(np.array([2, 7]), np.array([5, 8])).positions.tolist()
      [2, 3, 4, 7]
    """

    starts: Int[np.ndarray, " runs"]
    stops: Int[np.ndarray, " runs"]

    @property
    def positions(self) -> Int[np.ndarray, " tokens"]:
        """The positions of the tokens of all runs, ascending."""
        sizes = self.stops - self.starts
        ends = sizes.cumsum()
        return (self.stops - ends).repeat(sizes) + np.arange(ends[-1] if len(ends) else 0)


# Whether each token begins a unit, from a row's tokens and spans; None: every token does.
Begins = Callable[[Int[np.ndarray, " length"], Int[np.ndarray, "spans columns"]], Bool[np.ndarray, " length"] | None]


def _by_word(config: ChooseConfig, vocabulary: Vocabulary, key: str) -> Begins:
    begin = borders(config.words, starts_word=vocabulary.starts_word, texts=vocabulary.texts, key=f"{key}.words")
    return lambda tokens, spans: begin(tokens)


UNITS: dict[str, Callable[[ChooseConfig, Vocabulary, str], Begins]] = {
    "token": lambda config, vocabulary, key: lambda tokens, spans: None,
    "word": _by_word,
    "span": lambda config, vocabulary, key: lambda tokens, spans: span_begins(spans, len(tokens)),
}

NO_SPANS = np.zeros((0, 3), np.int32)

# p(1), p(2), ..., p(longest), up to a factor.
LENGTHS: dict[str, Callable[[ChooseConfig], Float[np.ndarray, " lengths"]]] = {
    "one": lambda config: np.ones(1),
    "geometric": lambda config: (1 - config.stop) ** np.arange(config.longest),
    "harmonic": lambda config: 1 / np.arange(1.0, config.longest + 1),
    "uniform": lambda config: np.ones(config.longest),
}


def lengths(config: ChooseConfig, key: str = "choose") -> Float[np.ndarray, " lengths"]:
    """The probabilities of runs of 1, 2, ... units.

    SpanBERT's Geo(0.2) "clipped at 10" is cut off there and normalised: only so is its mean 3.8, as in the paper.

    Example:
      >>> geometric = lengths(ChooseConfig(run="geometric"))
      >>> len(geometric), round(float(geometric @ np.arange(1, 11)), 1)
      (10, 3.8)
    """
    shares = lookup(LENGTHS, config.run, f"{key}.run")(config)
    return shares / shares.sum()


def span_begins(spans: Int[np.ndarray, "spans columns"], length: int) -> Bool[np.ndarray, " length"]:
    """Whether each token begins a unit: all but those inside a span.

    Args:
      spans: the first token and the token after the last of each span, in any order; other columns are not read. Of
        overlapping spans, the one that begins first is a unit, or of those that begin together the longest.
      length: the number of tokens.
    """
    begins, end = np.ones(length, bool), 0
    for first, last in sorted(spans[:, :2].tolist(), key=lambda span: (span[0], -span[1])):
        if first >= end:
            begins[first + 1 : last], end = False, last
    return begins


def units(candidates: Bool[np.ndarray, " length"], begins: Bool[np.ndarray, " length"] | None = None) -> Runs:
    """The units of a row: neighbouring candidates, separated where a unit begins; None: at every token.

    Example:
      >>> candidates, begins = np.array([False, True, True, True, False]), np.array([True, False, False, True, True])
      >>> print(*units(candidates, begins))
      [1 3] [3 4]
    """
    if begins is None:
        starts = candidates.nonzero()[0]
        return Runs(starts, starts + 1)
    # Whether each token continues the unit of the token before it.
    inside = candidates & ~begins
    inside[1:] &= candidates[:-1]
    inside[:1] = False
    last = candidates.copy()
    last[:-1] &= ~inside[1:]
    return Runs((candidates & ~inside).nonzero()[0], last.nonzero()[0] + 1)


def choose_units(units: Runs, most: int, order: Int[np.ndarray, " units"]) -> Runs:
    """Chooses single units, in `order`, of at most `most` tokens in total; one that would exceed it is left out.

    Example:
      >>> print(*choose_units(Runs(np.array([0, 1, 4]), np.array([1, 4, 5])), 2, np.array([2, 1, 0])))
      [0 4] [1 5]
    """
    sizes = (units.stops - units.starts)[order]
    totals = sizes.cumsum()
    count = int(totals.searchsorted(most, "right"))
    chosen, left = order[:count], most - int(totals[count - 1] if count else 0)
    if left and count < len(order):
        fitting = count + (sizes[count:] <= left).nonzero()[0]
        others = []
        for unit, size in zip(order[fitting].tolist(), sizes[fitting].tolist(), strict=True):
            if size <= left:
                others.append(unit)
                left -= size
        chosen = np.concatenate([chosen, np.array(others, chosen.dtype)])
    chosen = np.sort(chosen)
    return Runs(units.starts[chosen], units.stops[chosen])


def choose(units: Runs, most: int, counts: Iterable[int], order: Int[np.ndarray, " units"]) -> Runs:
    """Chooses runs of whole units of at most `most` tokens in total.

    The first unit of a run is the next one in `order` that is not chosen yet. The run goes on with the following units
    until it has the next of `counts`; it ends early before a token that is no candidate, before a chosen unit, and
    before a unit that would exceed `most`. A first unit that would exceed it is left out, as in BERT's code.

    Args:
      units: the units of a row.
      most: the largest number of tokens.
      counts: the number of units of each run, in the order in which runs are tried; one for every unit of the row.
      order: the units in random order.
    """
    starts, stops = units.starts.tolist(), units.stops.tolist()
    chosen = bytearray(len(starts) + 1)
    # No run continues behind the last unit.
    chosen[-1] = 1
    runs = []
    for first, count in zip(order.tolist(), counts, strict=False):
        if chosen[first]:
            continue
        unit, last = first, first + count
        while stops[unit] - starts[first] <= most:
            chosen[unit] = 1
            unit += 1
            if unit == last or chosen[unit] or starts[unit] != stops[unit - 1]:
                break
        if unit > first:
            runs.append((starts[first], stops[unit - 1]))
            most -= stops[unit - 1] - starts[first]
            if not most:
                break
    runs.sort()
    return Runs(*np.array(runs, np.int64).reshape(-1, 2).T)


@dataclasses.dataclass(frozen=True)
class Chooser:
    """Chooses the runs of a row to predict, by the settings.

    Attributes:
      config: the settings.
      vocabulary: knows which pieces begin a word.
      key: the key of `config`, for messages.

    Raises:
      InputError: an unknown unit or run, or it is unknown where words begin.

    Example:
      >>> vocabulary = Vocabulary(size=9, pad=0, eos=1, ordinary=(2, 9), starts_word=np.arange(9) % 2 == 0)
      >>> chooser = Chooser(ChooseConfig(unit="word"), vocabulary)
      >>> chooser(np.array([2, 3, 4, 5, 6]), np.ones(5, bool), 3, np.random.default_rng(2)).positions.tolist()
      [0, 1, 4]
    """

    config: ChooseConfig
    vocabulary: Vocabulary
    key: str = "choose"
    _begins: Begins = dataclasses.field(init=False, repr=False, compare=False)
    _cumulative: np.ndarray = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self):
        build = lookup(UNITS, self.config.unit, f"{self.key}.unit")
        object.__setattr__(self, "_begins", build(self.config, self.vocabulary, self.key))
        object.__setattr__(self, "_cumulative", np.cumsum(lengths(self.config, self.key))[:-1])

    def __call__(
        self,
        tokens: Int[np.ndarray, " length"],
        candidates: Bool[np.ndarray, " length"],
        most: int,
        rng: np.random.Generator,
        spans: Int[np.ndarray, "spans columns"] = NO_SPANS,
    ) -> Runs:
        """Chooses runs of at most `most` tokens.

        Args:
          tokens: the row.
          candidates: the tokens that may be predicted: not the special ones.
          most: the largest number of tokens; fewer are chosen if no unit fits the rest.
          rng: of the choice.
          spans: the first token and the token after the last of each span, for the unit "span".
        """
        row = units(candidates, self._begins(tokens, spans))
        order = rng.permutation(len(row.starts))
        if not len(self._cumulative):
            return choose_units(row, most, order)
        counts = 1 + self._cumulative.searchsorted(rng.random(len(order)), "right")
        return choose(row, most, counts.tolist(), order)
