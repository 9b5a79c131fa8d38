"""Attention masks as predicates over positions: `causal & (recent(3) | strided(3))`. No array of all pairs is stored.

A mask also gives the range of keys that a block of consecutive queries can attend to, for kernels to skip the rest.
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
class TokenPositions:
    """Positions of queries or of keys, in shapes that broadcast against each other.

    Attributes:
      position: position in the text.
      prefix: whether the token belongs to its row's prefix; None: rows have no prefix.
    """

    position: Int[Array, " ..."] | Any
    prefix: Bool[Array, " ..."] | None | Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mask:
    """The keys that each query may attend to; masks combine with `&` and `|`.

    Attributes:
      allow: maps positions of queries and keys to True where a query may attend to a key; None: everywhere.
      reach: maps (first query, one past the last query, number of keys) to the range of keys that these queries may
        attend to. Valid only if positions are 0, 1, 2, ...
      band: (before, after), if the mask allows the keys from `before` positions before the query to `after` positions
        after it, and no others; each may be None: no limit. None: the mask is no band.

    Example:
      >>> mask, tokens = causal & recent(3), jnp.arange(5)
      >>> mask.allow(TokenPositions(tokens[:, None]), TokenPositions(tokens[None])).astype(int)
      Array([[1, 0, 0, 0, 0],
             [1, 1, 0, 0, 0],
             [1, 1, 1, 0, 0],
             [0, 1, 1, 1, 0],
             [0, 0, 1, 1, 1]], dtype=int32)
      >>> mask.reach(3, 5, 5)
      (1, 5)
    """

    allow: Callable[[TokenPositions, TokenPositions], Array] | None
    reach: Callable[[int, int, int], tuple[int, int]]
    band: tuple[int | None, int | None] | None = None

    def __and__(self, other: Mask) -> Mask:
        """Allowed by both."""
        allow = other.allow if self.allow is None else self.allow
        if self.allow is not None and other.allow is not None:
            left, right = self.allow, other.allow
            allow = lambda query, key: left(query, key) & right(query, key)

        def reach(start: int, stop: int, keys: int) -> tuple[int, int]:
            (a, b), (c, d) = self.reach(start, stop, keys), other.reach(start, stop, keys)
            return max(a, c), min(b, d)

        bands = None if self.band is None or other.band is None else zip(self.band, other.band, strict=True)
        narrower = lambda a, b: b if a is None else a if b is None else min(a, b)
        band = None if bands is None else tuple(narrower(*limits) for limits in bands)
        return Mask(allow=allow, reach=reach, band=band)

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


full = Mask(allow=None, reach=lambda start, stop, keys: (0, keys), band=(None, None))
causal = Mask(
    allow=lambda query, key: key.position <= query.position,
    reach=lambda start, stop, keys: (0, min(stop, keys)),
    band=(None, 0),
)


def _in_prefix(query: TokenPositions, key: TokenPositions) -> Any:
    return key.position < 0 if key.prefix is None else key.prefix


# Raffel et al. 2020, section 3.2.1. Prefix lengths are run-time values, so every key is in reach.
prefix = causal | Mask(allow=_in_prefix, reach=full.reach)


def recent(window: int) -> Mask:
    """The latest `window` keys including the query's own, and all later keys (Mistral, GPT-Neo)."""
    return Mask(
        allow=lambda query, key: key.position > query.position - window,
        reach=lambda start, stop, keys: (max(0, start - window + 1), keys),
        band=(window - 1, None),
    )


def around(window: int) -> Mask:
    """Keys at most `window` positions away on either side (Longformer, ModernBERT)."""
    return Mask(
        allow=lambda query, key: abs(query.position - key.position) <= window,
        reach=lambda start, stop, keys: (max(0, start - window), min(stop + window, keys)),
        band=(window, window),
    )


def strided(stride: int) -> Mask:
    """Every `stride`-th key, counted from the query (Child et al. 2019, arXiv:1904.10509, section 4.3)."""
    return Mask(allow=lambda query, key: (query.position - key.position) % stride == 0, reach=full.reach)


MASKS = {"full": full, "causal": causal, "prefix": prefix}


def mask(name: str) -> Mask:
    """Looks up a mask by name."""
    return lookup(MASKS, name, "attention.mask")


@functools.cache
def of_config(config: AttentionConfig, past: int = 0) -> Mask:
    """The mask of a configuration with `past` keys before the first query."""
    direction, window, stride = mask(config.mask), config.window, config.stride
    direction = direction & recent(past + 1) if config.same_length else direction
    local = None if window is None else around(window) if config.mask == "full" else recent(window)
    sparse = [part for part in (local, None if stride is None else strided(stride)) if part is not None]
    return direction & functools.reduce(lambda left, right: left | right, sparse) if sparse else direction


@flax.struct.dataclass
class Visibility:
    """The keys that each query of a call may attend to: allowed by a mask over positions, and in the same segment.

    Attributes:
      prefix: length of each row's prefix; None: no prefix.
      query_positions, key_positions: None: 0, 1, 2, ...
      query_segments: None: all queries, padding included, attend to every key that is not padding.
      key_segments: 0 is padding; None: no padding.
      query_types, key_types: token types, where scores depend on them.
      query_offset: index of the first query's own token among the keys.
      self_visible: number of leading queries that always attend to their own token.
      unseen: True where a query must not attend to a key.
      key_ranks: place of each key in a factorisation order; None: no order.
      query_ranks: the highest rank of a key that each query attends to.
      shared: number of first keys that are in every segment.
      targets: target tokens of the last queries, which have no keys: the query stream of `two_stream`.
      consecutive: whether the last key is that of the last query, and the positions of two tokens of a segment differ
        as their indices do: then a mask over positions and segments is one over indices and segments (`shift`).
    """

    mask: Mask = flax.struct.field(pytree_node=False, default=full)
    prefix: Int[Array, " batch"] | None | Any = None
    query_positions: Int[Array, "#batch query"] | None | Any = None
    key_positions: Int[Array, "#batch key"] | None | Any = None
    query_segments: Int[Array, "batch query"] | None | Any = None
    key_segments: Int[Array, "batch key"] | None | Any = None
    query_types: Int[Array, "batch query"] | None | Any = None
    key_types: Int[Array, "batch key"] | None | Any = None
    query_offset: Int[Array, ""] | int | Any = 0
    self_visible: int = flax.struct.field(pytree_node=False, default=0)
    unseen: Bool[Array, "batch query key"] | None | Any = None
    key_ranks: Int[Array, "batch key"] | None | Any = None
    query_ranks: Int[Array, "batch query"] | None | Any = None
    shared: int = flax.struct.field(pytree_node=False, default=0)
    targets: Int[Array, "batch targets"] | None | Any = None
    consecutive: bool = flax.struct.field(pytree_node=False, default=False)

    def prepended(self, count: int, positions: Int[Array, "#batch more"]) -> Visibility:
        """With `count` keys at `positions` before the others, which must have positions too; none is padding."""
        pad = lambda x, value: None if x is None else jnp.pad(x, ((0, 0), (count, 0)), constant_values=value)
        at = jnp.asarray(self.key_positions)
        earlier = jnp.broadcast_to(positions, (at.shape[0], count))
        return self.replace(  # type: ignore[attr-defined]
            query_offset=self.query_offset + count,
            key_positions=jnp.concatenate([earlier, at], 1),
            key_segments=pad(self.key_segments, 1),
            # Types of earlier tokens are not stored; 0, as in XLNet's released code.
            key_types=pad(self.key_types, 0),
            # They come before every token in the factorisation order (Yang et al. 2019, section 2.4).
            key_ranks=pad(self.key_ranks, jnp.iinfo(jnp.int32).min),
            unseen=None if self.unseen is None else jnp.pad(self.unseen, ((0, 0), (0, 0), (count, 0))),
        )

    @property
    def positions_are_indices(self) -> bool:
        """Whether positions are the indices 0, 1, 2, ..., so that `mask.reach` is valid."""
        return self.query_positions is None and self.key_positions is None

    def shift(self, queries: int, keys: int) -> int | None:
        """Key index of the first query's own token, if the mask is one over indices; None: it is not."""
        return 0 if self.positions_are_indices else keys - queries if self.consecutive else None

    def positions(self, queries: slice, keys: slice) -> tuple[Int[Array, "#batch query 1"], Int[Array, "#batch 1 key"]]:
        """Positions of these queries and keys, in shapes that broadcast against each other."""
        query, key = _positions(self.query_positions, queries), _positions(self.key_positions, keys)
        return query[:, :, None], key[:, None, :]

    def _token_positions(self, position: Array) -> TokenPositions:
        return TokenPositions(position, None if self.prefix is None else position < self.prefix[:, None, None])

    def same_text(self, before: int, length: int, index: Int[Array, ""] | None) -> Bool[Array, "#batch length before"]:
        """Whether the tokens 1, 2, ..., `before` slots before each query are the preceding tokens of its text.

        `index`: slot of the first of `length` queries; None: 0.
        """
        slots, columns = jnp.arange(length) + (0 if index is None else index), []
        for back in range(1, before + 1):
            earlier = jnp.maximum(slots - back, 0)
            same = (slots >= back)[None]
            if self.key_positions is not None and self.query_positions is not None:
                same = same & (self.key_positions[:, earlier] == self.query_positions - back)
            if self.key_segments is not None:
                key = self.key_segments[:, earlier]
                same = same & (key > 0 if self.query_segments is None else key == self.query_segments)
            columns.append(same)
        return jnp.stack(columns, -1)

    def allowed(self, queries: slice, keys: slice) -> Bool[Array, "#batch query key"] | None:
        """Where these queries may attend to these keys; None: everywhere."""
        allowed = None
        if self.mask.allow is not None:
            query, key = self.positions(queries, keys)
            allowed = self.mask.allow(self._token_positions(query), self._token_positions(key))
        if self.key_segments is not None:
            key, segments = self.key_segments[:, None, keys], self.query_segments
            same = key > 0 if segments is None else (key == segments[:, queries, None]) & (key > 0)
            if self.shared:
                same = same | (_positions(None, keys)[:, None, :] < self.shared)
            allowed = same if allowed is None else allowed & same
        if self.unseen is not None:
            visible = ~self.unseen[:, queries, keys]
            allowed = visible if allowed is None else allowed & visible
        if self.key_ranks is not None and self.query_ranks is not None:
            visible = self.key_ranks[:, None, keys] <= self.query_ranks[:, queries, None]
            allowed = visible if allowed is None else allowed & visible
        if self.self_visible and allowed is not None:
            query, key = _positions(None, queries)[:, :, None], _positions(None, keys)[:, None, :]
            allowed = allowed | ((key - self.query_offset == query) & (query < self.self_visible))
        return allowed

    def tokens(self, rows: int) -> int:
        """Number of tokens among `rows` queries; the others are targets."""
        return rows if self.targets is None else rows - self.targets.shape[1]


def _positions(positions: Array | None, span: slice) -> Array:
    if positions is not None:
        return positions[:, span]
    return jax.lax.broadcasted_iota("int32", (1, span.stop - span.start), 1) + span.start
