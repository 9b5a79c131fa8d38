"""Metrics as (sum, weight), added and divided last: exact even for batches with different numbers of tokens."""

from __future__ import annotations

from typing import Any

import flax.struct
from jaxtyping import Array, Float


@flax.struct.dataclass
class Sum:
    """A weighted sum over tokens, pairs or rows (`total`), and the sum of their weights (`weight`).

    Example:
      >>> batches = Sum(total=6.0, weight=2.0) + Sum(total=9.0, weight=1.0)
      >>> batches.total, batches.weight, batches.mean()
      (15.0, 3.0, 5.0)
    """

    total: Float[Array, ""] | Any
    weight: Float[Array, ""] | Any

    def __add__(self, other: Sum) -> Sum:
        return Sum(total=self.total + other.total, weight=self.weight + other.weight)

    def mean(self) -> float:
        """Returns the mean, on the host; 0 if the weight is 0."""
        weight = float(self.weight)
        return float(self.total) / weight if weight else 0.0


Sums = dict[str, Sum]


def add(left: Sums, right: Sums) -> Sums:
    """Adds sums by name; a sum that is missing on one side counts as zero."""
    return {**left, **right, **{name: left[name] + right[name] for name in left if name in right}}


def means(sums: Sums) -> dict[str, float]:
    """Divides every sum by its weight, on the host."""
    return {name: value.mean() for name, value in sums.items()}
