"""Attention in blocks of queries, each over the range of keys that it can attend to.

So causal attention skips half of the work, and a block under a window reads its own keys and the window before it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lm_jax.models.attention.kernels.dense import attend
from lm_jax.models.attention.masks import Visibility

# More blocks make the program longer, not faster.
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
    """Computes `dense` for `block` queries at a time; skips keys only where positions count 0, 1, 2, ..."""
    queries, keys = q.shape[2], k.shape[2]
    block = max(block, -(-queries // MOST_BLOCKS))
    mixed = []
    for start in range(0, queries, block):
        stop = min(start + block, queries)
        first, last = visibility.mask.reach(start, stop, keys) if visibility.counted else (0, keys)
        # Masks without a common key have an empty range: one key remains, which is masked out.
        first = min(first, keys - 1)
        rows, reach = slice(start, stop), slice(first, max(last, first + 1))
        q_block, k_block, v_block = q[:, :, rows], k[:, :, reach], v[:, :, reach]
        biases = None if bias is None else bias[:, :, rows, reach]
        drop = None if key is None else jax.random.fold_in(key, start)
        mixed.append(attend(q_block, k_block, v_block, visibility, rows, reach, biases, slopes, softcap, dropout, drop))
    return jnp.concatenate(mixed, axis=2)
