"""Several sources in one run: how often each is read, and which of them fills which slot.

A share follows from the sizes, p_i ~ n_i^(1/T): T = 1 is proportional, a larger T raises small sources (multilingual
BERT; XLM-R, Conneau et al. 2020, arXiv:1911.02116, eq. 1 with alpha = 1/T; T5, Raffel et al. 2020, arXiv:1910.10683,
section 3.5.2). The slots of a run are an integer schedule of the shares: one source each, none ever a whole slot ahead
of or behind its share (Tijdeman 1980, "The chairman assignment problem"). Every source has epochs of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError, Tree, entries
from lm_jax.data.order import key
from lm_jax.data.rows import Filled, Row, Rows
from lm_jax.data.sources import SourceConfig

# Slots after which the schedule repeats: shares are multiples of 1 / PERIOD.
PERIOD = 1 << 16
KEY = "config.data.mixture"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """Several sources instead of `config.data.path`.

    Attributes:
      sources: `SourceConfig`s by names of your own: `{"en": {"path": "en/*.jsonl"}, "zh": {"path": "zh.tsv", "field":
        "modern"}}`. Their order does not matter.
      temperature: T of p_i ~ n_i^(1/T), n_i the training tokens of a source; of no effect where sources have weights.
    """

    sources: Tree = Tree()
    temperature: float = 1.0

    def __post_init__(self):
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise InputError(f"{KEY}.temperature is {self.temperature}; expected a number above 0, such as 3.33")
        weights = {name: source.weight for name, source in self.named().items()}
        for name, weight in weights.items():
            if not (weight >= 0 and math.isfinite(weight)):
                raise InputError(f"{KEY}.sources.{name}.weight is {weight}; expected a number from 0")
        if any(weights.values()) and not all(weights.values()):
            lacking = ", ".join(name for name, weight in weights.items() if not weight)
            raise InputError(f"{KEY}.sources: {lacking} has no weight, but others do; give one to every source or none")
        if any(weights.values()) and self.temperature != 1:
            raise InputError(
                f"{KEY}: every source has a weight, so temperature {self.temperature} would have no effect; set "
                f"{KEY}.temperature=1 or leave out the weights"
            )

    def named(self) -> dict[str, SourceConfig]:
        """The sources, by name in alphabetical order."""
        return entries(SourceConfig, self.sources, f"{KEY}.sources")

    def shares(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """How much of the mixture each source is: positive, their sum 1.

        Args:
          sizes: of each source, in any unit that they share.
        """
        named = self.named()
        weights = {name: named[name].weight or sizes[name] ** (1 / self.temperature) for name in sizes}
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items()}


def counts(shares: Sequence[float], period: int = PERIOD) -> Int[np.ndarray, " sources"]:
    """Shares in whole slots of a period: by largest remainder, but at least one each."""
    wanted = np.asarray(shares, np.float64) / np.sum(shares) * period
    if len(wanted) > period:
        raise InputError(f"{KEY}.sources names {len(wanted)} sources; {period} are the most")
    rounded = np.maximum(np.floor(wanted), 1).astype(np.int64)
    while (missing := period - int(rounded.sum())) > 0:
        rounded[np.argsort(rounded - wanted, kind="stable")[:missing]] += 1
    while (excess := int(rounded.sum()) - period) > 0:
        # What the smallest were raised by is taken from those that lie farthest above their share.
        above = np.where(rounded > 1, rounded - wanted, -np.inf)
        rounded[np.argsort(-above, kind="stable")[: min(excess, int((rounded > 1).sum()))]] -= 1
    return rounded


def schedule(count: Int[np.ndarray, " sources"]) -> Int[np.ndarray, " period"]:
    """The source of each slot of a period of `count.sum()` slots, source i in count[i] of them.

    After any number of slots n, source i has had less than one slot more or less than n count[i] / period: its slot j
    is given between (j + d) period / count[i] and (j + 1 - d) period / count[i], d = 1 / (2 sources - 2), earliest
    deadline first, which Tijdeman showed to be always possible.
    """
    period, sources = int(count.sum()), len(count)
    if sources == 1:
        return np.zeros(period, np.int64)
    parts = 2 * (sources - 1)
    releases, deadlines, owners = [], [], []
    for source, size in enumerate(count.tolist()):
        slot = np.arange(size, dtype=np.int64)
        # In integers: slots are counted from 1, d is 1 of `parts`.
        releases.append(-(-(parts * slot + 1) * period // (parts * size)))
        deadlines.append((parts * (slot + 1) - 1) * period // (parts * size))
        owners.append(np.full(size, source))
    release, deadline, owner = (np.concatenate(each) for each in (releases, deadlines, owners))
    order = np.lexsort((owner, deadline, release))
    waiting = list(zip(release[order].tolist(), deadline[order].tolist(), owner[order].tolist(), strict=True))
    ready: list[tuple[int, int]] = []
    result, at = np.empty(period, np.int64), 0
    for slot in range(1, period + 1):
        while at < len(waiting) and waiting[at][0] <= slot:
            heapq.heappush(ready, waiting[at][1:])
            at += 1
        result[slot - 1] = heapq.heappop(ready)[1]
    return result


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The rows of several sources as one.

    Read by number, as in evaluation, the rows of all sources are mixed evenly, each once.

    Attributes:
      names: of the sources.
      parts: their rows.
      keys: what tells the random choices of one source from another's; it does not depend on which others there are.
      count: slots of each source in a period.
    """

    names: tuple[str, ...]
    parts: tuple[Rows, ...]
    keys: tuple[int, ...]
    count: Int[np.ndarray, " sources"]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def row(self, index: int, epoch: int, rng: np.random.Generator) -> Row:
        """Row `index` of one pass over all of them."""
        number = int(self._evenly[index])
        part = int(np.searchsorted(self._starts, number, "right")) - 1
        return self.parts[part].row(number - int(self._starts[part]), epoch, rng)

    def filling(self, slots: Int[np.ndarray, " slots"], seed: int) -> list[Filled]:
        """The row of each slot: the schedule says which source fills it, and the source which of its rows."""
        sources, own = self.drawn(slots)
        result: list[Any] = [None] * len(slots)
        for source in np.unique(sources).tolist():
            places = np.flatnonzero(sources == source)
            filled = self.parts[source].filling(own[places], key(seed, self.keys[source]))
            for place, each in zip(places.tolist(), filled, strict=True):
                result[place] = each
        return result

    def drawn(self, slots: Int[np.ndarray, " slots"]) -> tuple[Int[np.ndarray, " slots"], Int[np.ndarray, " slots"]]:
        """The source that fills each slot of the run, and which of that source's own slots it is."""
        order, ranks = self._schedule
        turns, places = np.divmod(slots, len(order))
        sources = order[places]
        return sources, turns * self.count[sources] + ranks[places]

    @functools.cached_property
    def _schedule(self) -> tuple[Int[np.ndarray, " period"], Int[np.ndarray, " period"]]:
        """A period, and how many slots before each belong to the same source."""
        order = schedule(self.count)
        ranks = np.empty_like(order)
        for source, size in enumerate(self.count.tolist()):
            ranks[order == source] = np.arange(size)
        return order, ranks

    @functools.cached_property
    def _starts(self) -> Int[np.ndarray, " sources"]:
        return np.cumsum([0, *map(len, self.parts)])[:-1]

    @functools.cached_property
    def _evenly(self) -> Int[np.ndarray, " rows"]:
        """Numbers of the rows, laid one source after another, in the order of their places within their sources."""
        places = [(np.arange(len(part)) + 0.5) / max(1, len(part)) for part in self.parts]
        return np.argsort(np.concatenate(places), kind="stable")
