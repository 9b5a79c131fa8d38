"""Attention in blocks of queries, each over the keys that it can see: causal attention skips half of the work.

A window leaves each block its own queries and the window before them; only whole blocks of queries are told apart.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lm_jax.models.attention.kernels.dense import attend
from lm_jax.models.attention.masks import Visibility

# More blocks than this only make the program longer.
MOST_BLOCKS = 16


def blockwise(
    q: Float[Array, "batch heads query kv"],
    k: Float[Array, "batch groups key kv"],
    v: Float[Array, "batch groups key kv"],
    visibility: Visibility,
    *,
    bias: Float[Array, "#batch heads query key"] | None = None,
    slopes: Float[Array, " heads"] | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    key: jax.Array | None = None,
    block: int = 64,
) -> Float[Array, "batch heads query kv"]:
    """The same as `dense`, `block` queries at a time; blocks are skipped only where positions count 0, 1, 2, ..."""
    queries, keys = q.shape[2], k.shape[2]
    block = max(block, -(-queries // MOST_BLOCKS))
    mixed = []
    for start in range(0, queries, block):
        stop = min(start + block, queries)
        first, last = visibility.mask.reach(start, stop, keys) if visibility.counted else (0, keys)
        # Masks that have no key in common reach none: one key stays, which nobody may see.
        first = min(first, keys - 1)
        asked, part = slice(start, stop), slice(first, max(last, first + 1))
        query, seen, values = q[:, :, asked], k[:, :, part], v[:, :, part]
        added = None if bias is None else bias[:, :, asked, part]
        drop = None if key is None else jax.random.fold_in(key, start)
        mixed.append(attend(query, seen, values, visibility, asked, part, added, slopes, softcap, dropout, drop))
    return jnp.concatenate(mixed, axis=2)
