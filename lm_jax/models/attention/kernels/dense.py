"""Attention over all keys at once (Vaswani et al. 2017, eq. 1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lm_jax.models import cpu
from lm_jax.models.attention.masks import Visibility

# Finite, so that a query that sees nothing gives a mean of values and not NaN.
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
    """softmax(q k + bias - slope distance) v over what `visibility` allows; q comes scaled.

    Args:
      q: scaled queries; `heads` is a multiple of `groups`.
      k: keys, shared by heads / groups consecutive heads.
      v: values.
      visibility: what each query may see.
      bias: added to the scores.
      slopes: how much the scores of each head fall per position of distance (ALiBi).
      softcap: scores are first bent to softcap * tanh(scores / softcap).
      dropout: rate on the probabilities, with `key` to draw it.
      key: random key; None is no dropout.
      block: not used here.
    """
    queries, keys = slice(0, q.shape[2]), slice(0, k.shape[2])
    return attend(q, k, v, visibility, queries, keys, bias, slopes, softcap, dropout, key)


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
    """Attention of `queries` over `keys`; q, k, v and bias hold those ranges only."""
    batch, heads, length, width = q.shape
    groups, dtype = k.shape[1], v.dtype
    q, k, v = cpu.widened(q, k, v)
    grouped = q.reshape(batch, groups, heads // groups * length, width)
    scores = jnp.einsum("bgqd,bgkd->bgqk", grouped, k, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, heads, length, k.shape[2])
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    if slopes is not None:
        query, key_places = visibility.positions(queries, keys)
        distance = jnp.abs(query - key_places).astype(jnp.float32)
        scores = scores - slopes[None, :, None, None] * distance[:, None]
    if bias is not None:
        scores = scores + cpu.repeated(bias.astype(jnp.float32), batch)
    allowed = visibility.allowed(queries, keys)
    if allowed is not None:
        # A query that sees nothing because it is padding teaches nothing either; one whose keys are all padding has, as
        # in the reference implementations, the gradient of scores that something was added to.
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
    # Divided after the product: `kv` numbers a query instead of `key` numbers.
    return (mixed.reshape(batch, heads, length, width) / total).astype(dtype)
