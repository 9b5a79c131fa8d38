"""Attention masks as predicates over places: `causal & (recent(3) | strided(3))`, never a stored length x length array.

A mask also knows which keys a run of consecutive queries can see at all, so that a kernel can skip the rest.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from lm_jax.core.config import lookup
from lm_jax.models.attention.config import AttentionConfig


@flax.struct.dataclass
class Places:
    """What a mask knows of queries or of keys, in shapes that broadcast one against the other.

    Attributes:
      position: place in its text.
      prefix: whether it belongs to its row's prefix; None where rows have none.
    """

    position: Int[Array, ...] | Any
    prefix: Bool[Array, ...] | None | Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mask:
    """Which keys a query may see.

    Attributes:
      allow: places of queries and of keys to True where a query may see a key; None where everything is allowed.
      reach: (first query, one past the last query, number of keys) to the range of keys that any of them may see.
        Plain integers: valid when positions count 0, 1, 2, ...
    """

    allow: Callable[[Places, Places], Array] | None
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
causal = Mask(
    allow=lambda query, key: key.position <= query.position, reach=lambda start, stop, keys: (0, min(stop, keys))
)


def _in_prefix(query: Places, key: Places) -> Any:
    return key.position < 0 if key.prefix is None else key.prefix


# Raffel et al. 2020, section 3.2.1. How long a prefix is, is known when the program runs: any key is in reach.
prefix = causal | Mask(allow=_in_prefix, reach=lambda start, stop, keys: (0, keys))


def recent(window: int) -> Mask:
    """The latest `window` keys up to the query, its own among them, and all later ones (Mistral, GPT-Neo)."""
    return Mask(
        allow=lambda query, key: key.position > query.position - window,
        reach=lambda start, stop, keys: (max(0, start - window + 1), keys),
    )


def around(window: int) -> Mask:
    """At most `window` keys away on either side (Longformer, ModernBERT)."""
    return Mask(
        allow=lambda query, key: abs(query.position - key.position) <= window,
        reach=lambda start, stop, keys: (max(0, start - window), min(stop + window, keys)),
    )


def strided(stride: int) -> Mask:
    """Every `stride`-th key, counted from the query (Child et al. 2019, arXiv:1904.10509, section 4.3)."""
    return Mask(
        allow=lambda query, key: (query.position - key.position) % stride == 0,
        reach=lambda start, stop, keys: (0, keys),
    )


MASKS = {"full": full, "causal": causal, "prefix": prefix}


def mask(name: str) -> Mask:
    """The mask of a name; a configuration error when there is none."""
    return lookup(MASKS, name, "attention.mask")


@functools.cache
def of(config: AttentionConfig, past: int = 0) -> Mask:
    """The mask of a configuration: which way queries look, and which of those keys they see.

    Args:
      config: its names and sizes.
      past: keys before the first query.
    """
    whole, window, stride = mask(config.mask), config.window, config.stride
    whole = whole & recent(past + 1) if config.same_length else whole
    near = None if window is None else around(window) if config.mask == "full" else recent(window)
    parts = [part for part in (near, None if stride is None else strided(stride)) if part is not None]
    return whole & functools.reduce(lambda left, right: left | right, parts) if parts else whole


@flax.struct.dataclass
class Visibility:
    """What each query of a call may see: a mask, the positions it judges, and the segments that must agree.

    Attributes:
      mask: the predicate.
      prefix: tokens at positions below this belong to a row's prefix; None is no prefix.
      query_positions, key_positions: None where they count 0, 1, 2, ...
      query_segments: None where queries, padding too, see every key that is not padding.
      key_segments: None where no key is padding; 0 marks padding.
      query_types, key_types: token types, where scores tell them apart.
      first: the slot among the keys of the first query's own token.
      own: so many queries see their own token, whatever else says that it is not to be seen.
      unseen: pairs that must not see each other.
      targets: tokens that the last queries ask for, which are no keys: the query stream of `two_stream`.
    """

    mask: Mask = flax.struct.field(pytree_node=False, default=full)
    prefix: Int[Array, " batch"] | None | Any = None
    query_positions: Int[Array, "#batch query"] | None | Any = None
    key_positions: Int[Array, "#batch key"] | None | Any = None
    query_segments: Int[Array, "batch query"] | None | Any = None
    key_segments: Int[Array, "batch key"] | None | Any = None
    query_types: Int[Array, "batch query"] | None | Any = None
    key_types: Int[Array, "batch key"] | None | Any = None
    first: Int[Array, ""] | int | Any = 0
    own: int = flax.struct.field(pytree_node=False, default=0)
    unseen: Bool[Array, "batch query key"] | None | Any = None
    targets: Int[Array, "batch targets"] | None | Any = None

    @property
    def counted(self) -> bool:
        """Whether positions count 0, 1, 2, ..., so that `mask.reach` holds."""
        return self.query_positions is None and self.key_positions is None

    def positions(self, queries: slice, keys: slice) -> tuple[Int[Array, "#batch query 1"], Int[Array, "#batch 1 key"]]:
        """Positions of these queries and of these keys, to be broadcast against each other."""
        query, key = _positions(self.query_positions, queries), _positions(self.key_positions, keys)
        return query[:, :, None], key[:, None, :]

    def _places(self, position: Array) -> Places:
        return Places(position, None if self.prefix is None else position < self.prefix[:, None, None])

    def near(self, before: int, length: int, index: Int[Array, ""] | None) -> Bool[Array, "#batch length before"]:
        """Whether the token 1, 2, ... `before` slots earlier is the one so many places earlier in the same text.

        Args:
          before: how many slots back.
          length: queries.
          index: the slot of the first query; None is 0.
        """
        slots, parts = jnp.arange(length) + (0 if index is None else index), []
        for back in range(1, before + 1):
            earlier = jnp.maximum(slots - back, 0)
            same = (slots >= back)[None]
            if self.key_positions is not None and self.query_positions is not None:
                same = same & (self.key_positions[:, earlier] == self.query_positions - back)
            if self.key_segments is not None:
                key = self.key_segments[:, earlier]
                same = same & (key > 0 if self.query_segments is None else key == self.query_segments)
            parts.append(same)
        return jnp.stack(parts, -1)

    def allowed(self, queries: slice, keys: slice) -> Bool[Array, "#batch query key"] | None:
        """Where these queries may see these keys; None where they may see all of them."""
        allowed = None
        if self.mask.allow is not None:
            query, key = self.positions(queries, keys)
            allowed = self.mask.allow(self._places(query), self._places(key))
        if self.key_segments is not None:
            key = self.key_segments[:, None, keys]
            same = (
                key > 0 if self.query_segments is None else (key == self.query_segments[:, queries, None]) & (key > 0)
            )
            allowed = same if allowed is None else allowed & same
        if self.unseen is not None:
            seen = ~self.unseen[:, queries, keys]
            allowed = seen if allowed is None else allowed & seen
        if self.own and allowed is not None:
            query, key = _positions(None, queries)[:, :, None], _positions(None, keys)[:, None, :]
            allowed = allowed | ((key - self.first == query) & (query < self.own))
        return allowed

    def tokens(self, rows: int) -> int:
        """How many of `rows` queries are tokens, and not targets."""
        return rows if self.targets is None else rows - self.targets.shape[1]


def _positions(positions: Array | None, part: slice) -> Array:
    if positions is not None:
        return positions[:, part]
    return jax.lax.broadcasted_iota("int32", (1, part.stop - part.start), 1) + part.start
