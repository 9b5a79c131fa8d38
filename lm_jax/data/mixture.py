"""Mixtures of several sources: the share of each, and the schedule that assigns slots to sources.

Shares follow from the sizes, p_i ~ n_i^(1/T): T = 1 is proportional to size, a larger T raises small sources
(multilingual BERT; XLM-R, Conneau et al. 2020, arXiv:1911.02116, eq. 1 with alpha = 1/T; T5, Raffel et al. 2020,
arXiv:1910.10683, section 3.5.2). The schedule assigns each slot of a run to one source, so that every source is always
less than one slot from its share (Tijdeman 1980, "The chairman assignment problem"). Each source counts its epochs.

`of_objectives` mixes several objectives over one corpus by the same schedule.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError, Tree, build_entries
from lm_jax.data import lengths
from lm_jax.data.order import key
from lm_jax.data.rows import Filled, Request, Row, Rows
from lm_jax.data.sources import SourceConfig

# Slots in a period of the schedule: shares are rounded to multiples of 1 / PERIOD.
PERIOD = 1 << 16
KEY = "config.data.mixture"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """Several sources instead of `config.data.path`.

    Example:
      >>> config = MixtureConfig(sources=Tree(en=Tree(path="en.txt"), sw=Tree(path="sw.txt")), temperature=2.0)
      >>> shares = config.shares({"en": 900, "sw": 100})
      >>> shares, schedule(counts([*shares.values()], period=8)).tolist()
      ({'en': 0.75, 'sw': 0.25}, [0, 0, 1, 0, 0, 0, 1, 0])

    Attributes:
      sources: `SourceConfig`s by names of your choice, in any order:
        `{"en": {"path": "en/*.jsonl"}, "zh": {"path": "zh.tsv", "field": "modern"}}`.
      temperature: T of p_i ~ n_i^(1/T), n_i the training tokens of a source; unused if the sources have weights.
    """

    sources: Tree = Tree()
    temperature: float = 1.0

    def __post_init__(self):
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise InputError(f"{KEY}.temperature is {self.temperature}; expected a number above 0, such as 3.33")
        weights = {name: source.weight for name, source in self.by_name().items()}
        for name, weight in weights.items():
            if not (weight >= 0 and math.isfinite(weight)):
                raise InputError(f"{KEY}.sources.{name}.weight is {weight}; expected 0 or a positive number")
        if any(weights.values()) and not all(weights.values()):
            lacking = ", ".join(name for name, weight in weights.items() if not weight)
            raise InputError(f"{KEY}.sources: {lacking} has no weight, but others do; give one to every source or none")
        if any(weights.values()) and self.temperature != 1:
            raise InputError(
                f"{KEY}: every source has a weight, so temperature {self.temperature} would have no effect; set "
                f"{KEY}.temperature=1 or leave out the weights"
            )

    def by_name(self) -> dict[str, SourceConfig]:
        """Return the sources by name, in alphabetical order."""
        return build_entries(SourceConfig, self.sources, f"{KEY}.sources")

    def shares(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """Return the share of each source, positive and summing to 1, from sizes in any unit."""
        sources = self.by_name()
        weights = {name: sources[name].weight or sizes[name] ** (1 / self.temperature) for name in sizes}
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items()}


def counts(shares: Sequence[float], period: int = PERIOD) -> Int[np.ndarray, " sources"]:
    """Round shares to slots of a period by largest remainder; each source gets at least one slot."""
    exact = np.asarray(shares, np.float64) / np.sum(shares) * period
    if len(exact) > period:
        raise InputError(f"{KEY}.sources names {len(exact)} sources; expected at most {period}")
    rounded = np.maximum(np.floor(exact), 1).astype(np.int64)
    while (missing := period - int(rounded.sum())) > 0:
        rounded[np.argsort(rounded - exact, kind="stable")[:missing]] += 1
    while (excess := int(rounded.sum()) - period) > 0:
        # Rounding small sources up to one slot takes slots from the sources that are farthest above their share.
        above = np.where(rounded > 1, rounded - exact, -np.inf)
        rounded[np.argsort(-above, kind="stable")[: min(excess, int((rounded > 1).sum()))]] -= 1
    return rounded


def schedule(count: Int[np.ndarray, " sources"]) -> Int[np.ndarray, " period"]:
    """Return the source of each slot of a period of `count.sum()` slots; source i fills count[i] slots.

    After any n slots, source i has filled n count[i] / period slots to within less than one: its slot j lies between
    (j + d) period / count[i] and (j + 1 - d) period / count[i], d = 1 / (2 sources - 2). Scheduling the earliest
    deadline first always meets these bounds (Tijdeman 1980).
    """
    period, sources = int(count.sum()), len(count)
    if sources == 1:
        return np.zeros(period, np.int64)
    denominator = 2 * (sources - 1)
    releases, deadlines, owners = [], [], []
    for source, size in enumerate(count.tolist()):
        slot = np.arange(size, dtype=np.int64)
        # In integers: slots count from 1, and d is 1 / denominator.
        releases.append(-(-(denominator * slot + 1) * period // (denominator * size)))
        deadlines.append((denominator * (slot + 1) - 1) * period // (denominator * size))
        owners.append(np.full(size, source))
    release, deadline, owner = (np.concatenate(each) for each in (releases, deadlines, owners))
    order = np.lexsort((owner, deadline, release))
    waiting = list(zip(release[order].tolist(), deadline[order].tolist(), owner[order].tolist(), strict=True))
    ready: list[tuple[int, int]] = []
    result, released = np.empty(period, np.int64), 0
    for slot in range(1, period + 1):
        while released < len(waiting) and waiting[released][0] <= slot:
            heapq.heappush(ready, waiting[released][1:])
            released += 1
        result[slot - 1] = heapq.heappop(ready)[1]
    return result


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The rows of several sources as one; by index, as in evaluation, each row once, all sources evenly interleaved.

    Attributes:
      names, parts: names and rows of the sources.
      keys: a random key for each source, which does not depend on the other sources.
      count: slots of each source in a period.
    """

    names: tuple[str, ...]
    parts: tuple[Rows, ...]
    keys: tuple[int, ...]
    count: Int[np.ndarray, " sources"]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def row(self, index: int, epoch: int, rng: np.random.Generator) -> Row:
        """Return row `index` of one pass over all sources."""
        number = int(self._evenly[index])
        part = int(np.searchsorted(self._starts, number, "right")) - 1
        return self.parts[part].row(number - int(self._starts[part]), epoch, rng)

    def filling(self, slots: Int[np.ndarray, " slots"], seed: int) -> list[Filled]:
        """Return the row of each slot: the schedule chooses the source, and the source chooses the row."""
        sources, source_slots = self.assign(slots)
        result: list[Any] = [None] * len(slots)
        for source in np.unique(sources).tolist():
            places = np.flatnonzero(sources == source)
            filled = self.parts[source].filling(source_slots[places], key(seed, self.keys[source]))
            for place, each in zip(places.tolist(), filled, strict=True):
                result[place] = each
        return result

    def lengths(self) -> Int[np.ndarray, " rows"]:
        """Return the tokens of each row of one pass, or an upper bound; raise InputError if they are unknown."""
        return np.concatenate([lengths.of(part) for part in self.parts])[self._evenly]

    def assign(self, slots: Int[np.ndarray, " slots"]) -> tuple[Int[np.ndarray, " slots"], Int[np.ndarray, " slots"]]:
        """Return the source of each slot, and the number of the slot among the slots of that source."""
        order, ranks = self._schedule
        periods, places = np.divmod(slots, len(order))
        sources = order[places]
        return sources, periods * self.count[sources] + ranks[places]

    @functools.cached_property
    def _schedule(self) -> tuple[Int[np.ndarray, " period"], Int[np.ndarray, " period"]]:
        """A period of the schedule, and for each slot the number of earlier slots of the same source."""
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
        """Rows, numbered source after source, sorted by their relative positions within their sources."""
        places = [(np.arange(len(part)) + 0.5) / max(1, len(part)) for part in self.parts]
        return np.argsort(np.concatenate(places), kind="stable")


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Rows of one part of a mixture of objectives, each with the name of the part as `part`."""

    name: str
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int, epoch: int, rng: np.random.Generator) -> Row:
        """Return a row with the name of its part."""
        return {**self.rows.row(index, epoch, rng), "part": np.str_(self.name)}

    def lengths(self) -> Int[np.ndarray, " rows"]:
        """Return the tokens of each row, or an upper bound; raise InputError if they are unknown."""
        return lengths.of(self.rows)

    def filling(self, slots: Int[np.ndarray, " slots"], seed: int) -> list[Filled]:
        """Return the row of each slot."""
        return [(self, *each[1:]) for each in self.rows.filling(slots, seed)]


def names_to_keys(names: Sequence[str]) -> dict[str, int]:
    """Return a key for each name: a hash, so that the order of a source does not depend on the other sources."""
    return {name: int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") for name in names}


def of_objectives(request: Request, make: Callable[[Request], Rows]) -> Mixture:
    """Build the rows of a mixture of objectives, which all read the whole corpus; `make` builds those of one."""
    parts, keys = request.reads.parts, names_to_keys(list(request.reads.parts))
    if request.config.window:
        raise InputError(
            f"config.data.rows.window is {request.config.window}, but config.objective.mixture gives each of its parts "
            "a share of every batch, which sorting rows by length would change; leave out one of them"
        )
    rows = []
    for name, reads in parts.items():
        part = dataclasses.replace(request, reads=reads, seed=key(request.seed, keys[name]))
        if part.plan == "streams":
            raise InputError(
                "config.data.rows.plan is streams, in which every row continues the row before, but "
                "config.objective.mixture changes the objective of a row from batch to batch; choose another plan"
            )
        rows.append(Labelled(name, make(part)))
    count = counts([reads.share for reads in parts.values()])
    return Mixture(tuple(parts), tuple(rows), tuple(keys.values()), count)
