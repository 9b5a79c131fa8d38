"""Attention over all keys at once (Vaswani et al. 2017, eq. 1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lm_jax.models import cpu
from lm_jax.models.attention.masks import Visibility
from lm_jax.models.remat import named

# Finite, so that a query without visible keys yields the mean of the values, not NaN.
MASKED = -1e30


def dense(
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
    block: int = 0,
) -> Float[Array, "batch heads query kv"]:
    """Computes softmax(q k + bias - slope distance) v over the keys that `visibility` allows.

    Args:
      q: scaled queries; `heads` is a multiple of `groups`.
      k: keys, shared by heads / groups consecutive heads.
      v: values.
      visibility: the keys that each query may attend to.
      bias: added to the scores.
      slopes: penalty of each head per position of distance (ALiBi).
      softcap: scores are first soft-capped to softcap * tanh(scores / softcap).
      dropout: rate on the probabilities.
      key: random key of dropout; None: no dropout.
      block: unused; part of the kernels' common signature.
    """
    queries, keys = slice(0, q.shape[2]), slice(0, k.shape[2])
    return named(attend(q, k, v, visibility, queries, keys, bias, slopes, softcap, dropout, key), "attended")


def attend(
    q: Array,
    k: Array,
    v: Array,
    visibility: Visibility,
    queries: slice,
    keys: slice,
    bias: Array | None,
    slopes: Array | None,
    softcap: float | None,
    dropout: float,
    key: jax.Array | None,
) -> Array:
    """Computes attention of `queries` over `keys`; q, k, v and bias hold only these ranges."""
    batch, heads, length, width = q.shape
    groups, dtype = k.shape[1], v.dtype
    q, k, v = cpu.upcast(q, k, v)
    grouped = q.reshape(batch, groups, heads // groups * length, width)
    scores = jnp.einsum("bgqd,bgkd->bgqk", grouped, k, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, heads, length, k.shape[2])
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    if slopes is not None:
        query_positions, key_positions = visibility.positions(queries, keys)
        distance = jnp.abs(query_positions - key_positions).astype(jnp.float32)
        scores = scores - slopes[None, :, None, None] * distance[:, None]
    if bias is not None:
        scores = scores + cpu.broadcast_rows(bias.astype(jnp.float32), batch)
    allowed = visibility.allowed(queries, keys)
    if allowed is not None:
        # `where` stops the gradient of padding queries, which see no keys. A query whose keys are all padding keeps the
        # gradient of its scores, as in the reference implementations, which add MASKED.
        allowed, padded = allowed[:, None], visibility.query_segments is not None
        scores = jnp.where(allowed, scores, MASKED) if padded else scores + jnp.where(allowed, 0.0, MASKED)
    scores = scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    weights = jnp.exp(scores)
    total = weights.sum(-1, keepdims=True)
    if key is not None and dropout > 0:
        keep = jax.random.bernoulli(key, 1 - dropout, weights.shape)
        weights = jnp.where(keep, weights / (1 - dropout), 0.0)
    weights = weights.astype(v.dtype).reshape(batch, groups, heads // groups * length, k.shape[2])
    mixed = jnp.einsum("bgqk,bgkd->bgqd", weights, v, preferred_element_type=jnp.float32)
    # Dividing after the product takes `kv` divisions per query, not one per key.
    return (mixed.reshape(batch, heads, length, width) / total).astype(dtype)
