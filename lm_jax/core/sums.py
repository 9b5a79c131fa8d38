"""Metrics as (sum, weight): merged by addition, divided last.

A mean of means is wrong as soon as two batches hold different numbers of tokens; sums never are.
"""

from __future__ import annotations

from typing import Any

import flax.struct
from jaxtyping import Array, Float


@flax.struct.dataclass
class Sum:
    """A weighted sum: `total` of `weight` things (tokens, pairs, rows)."""

    total: Float[Array, ""] | Any
    weight: Float[Array, ""] | Any

    def __add__(self, other: Sum) -> Sum:
        return Sum(total=self.total + other.total, weight=self.weight + other.weight)

    def mean(self) -> float:
        """The mean on the host; 0 where nothing was counted."""
        weight = float(self.weight)
        return float(self.total) / weight if weight else 0.0


Sums = dict[str, Sum]


def add(left: Sums, right: Sums) -> Sums:
    """Two sets of sums as one; a name that only one of them holds is kept."""
    return {
        name: left[name] + right[name] if name in left and name in right else left.get(name, right.get(name))  # type: ignore[misc]
        for name in {**left, **right}
    }


def means(sums: Sums) -> dict[str, float]:
    """Every sum divided by its weight, on the host."""
    return {name: value.mean() for name, value in sums.items()}
