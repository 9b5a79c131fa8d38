"""Attention in blocks of queries, each over the range of keys that it can attend to.

Causal attention thus skips half of the work; under a window, a block reads its own keys and the window before them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lm_jax.models.attention.kernels.dense import attend
from lm_jax.models.attention.masks import Visibility
from lm_jax.models.remat import named

# More blocks make the program longer, not faster.
MAX_BLOCKS = 16


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
    """Computes `dense` for `block` queries at a time; skips keys only where positions are 0, 1, 2, ..."""
    queries, keys = q.shape[2], k.shape[2]
    block = max(block, -(-queries // MAX_BLOCKS))
    mixed = []
    for start in range(0, queries, block):
        stop = min(start + block, queries)
        first, last = visibility.mask.reach(start, stop, keys) if visibility.positions_are_indices else (0, keys)
        # The range is empty if combined masks have no key in common; then one key is read, and masked out.
        first = min(first, keys - 1)
        rows, columns = slice(start, stop), slice(first, max(last, first + 1))
        q_k_v = q[:, :, rows], k[:, :, columns], v[:, :, columns]
        bias_block = None if bias is None else bias[:, :, rows, columns]
        dropout_key = None if key is None else jax.random.fold_in(key, start)
        mixed.append(attend(*q_k_v, visibility, rows, columns, bias_block, slopes, softcap, dropout, dropout_key))
    return named(jnp.concatenate(mixed, axis=2), "attended")
