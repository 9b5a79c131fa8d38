"""Attention masks as predicates over positions: `causal(query, key)`, never a stored length x length array.

A mask also knows which keys a run of consecutive queries can see at all, so that a kernel can skip the rest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
from jaxtyping import Array, Bool, Int

from lm_jax.core.config import lookup


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mask:
    """Which keys a query may see.

    Attributes:
      allow: positions of queries and keys, broadcast against each other, to True where a query may see a key;
        None where everything is allowed.
      reach: (first query, one past the last query, number of keys) to the range of keys that any of them may see.
        Plain integers: valid when positions count 0, 1, 2, ...
    """

    allow: Callable[[Array, Array], Array] | None
    reach: Callable[[int, int, int], tuple[int, int]]

    def __and__(self, other: Mask) -> Mask:
        """Allowed by both."""
        if self.allow is None or other.allow is None:
            allow = other.allow if self.allow is None else self.allow
        else:
            left, right = self.allow, other.allow
            allow = lambda query, key: left(query, key) & right(query, key)

        def reach(start: int, stop: int, keys: int) -> tuple[int, int]:
            (a, b), (c, d) = self.reach(start, stop, keys), other.reach(start, stop, keys)
            return max(a, c), min(b, d)

        return Mask(allow=allow, reach=reach)

    def __or__(self, other: Mask) -> Mask:
        """Allowed by either."""
        allow = None
        if self.allow is not None and other.allow is not None:
            left, right = self.allow, other.allow
            allow = lambda query, key: left(query, key) | right(query, key)

        def reach(start: int, stop: int, keys: int) -> tuple[int, int]:
            (a, b), (c, d) = self.reach(start, stop, keys), other.reach(start, stop, keys)
            return min(a, c), max(b, d)

        return Mask(allow=allow, reach=reach)


full = Mask(allow=None, reach=lambda start, stop, keys: (0, keys))
causal = Mask(allow=lambda query, key: key <= query, reach=lambda start, stop, keys: (0, min(stop, keys)))

MASKS = {"full": full, "causal": causal}


def mask(name: str) -> Mask:
    """The mask of a name; a configuration error when there is none."""
    return lookup(MASKS, name, "attention.mask")


@flax.struct.dataclass
class Visibility:
    """What each query of a call may see: a mask, the positions it judges, and the segments that must agree.

    Attributes:
      mask: the predicate.
      query_positions, key_positions: None where they count 0, 1, 2, ...
      query_segments: None where queries see every key that is not padding (cross-attention).
      key_segments: None where no key is padding; 0 marks padding.
    """

    mask: Mask = flax.struct.field(pytree_node=False)
    query_positions: Int[Array, "#batch query"] | None | Any = None
    key_positions: Int[Array, "#batch key"] | None | Any = None
    query_segments: Int[Array, "batch query"] | None | Any = None
    key_segments: Int[Array, "batch key"] | None | Any = None

    @property
    def counted(self) -> bool:
        """Whether positions count 0, 1, 2, ..., so that `mask.reach` holds."""
        return self.query_positions is None and self.key_positions is None

    def allowed(self, queries: slice, keys: slice) -> Bool[Array, "#batch query key"] | None:
        """Where these queries may see these keys; None where they may see all of them."""
        allowed = None
        if self.mask.allow is not None:
            query = _positions(self.query_positions, queries)
            key = _positions(self.key_positions, keys)
            allowed = self.mask.allow(query[:, :, None], key[:, None, :])
        if self.key_segments is not None:
            key = self.key_segments[:, None, keys]
            same = (
                key > 0 if self.query_segments is None else (key == self.query_segments[:, queries, None]) & (key > 0)
            )
            allowed = same if allowed is None else allowed & same
        return allowed


def _positions(positions: Array | None, part: slice) -> Array:
    if positions is not None:
        return positions[:, part]
    return jax.lax.broadcasted_iota("int32", (1, part.stop - part.start), 1) + part.start
