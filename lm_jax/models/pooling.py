"""Pooling: the hidden states of a row that the head of a task, or a vector, is made of."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm_jax.core.config import lookup


def _last(hidden: jax.Array, real: jax.Array) -> jax.Array:
    positions = (jnp.arange(real.shape[1])[None] * (real > 0)).max(-1)
    return jnp.take_along_axis(hidden, positions[:, None, None], 1)[:, 0]


def _mean(hidden: jax.Array, real: jax.Array) -> jax.Array:
    used = (real > 0).astype(hidden.dtype)[..., None]
    return (hidden * used).sum(1) / jnp.maximum(used.sum(1), 1)


# (hidden states [batch length embed], 0 at padding [batch length]) -> what the head reads.
POOLS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "all": lambda hidden, real: hidden,
    "first": lambda hidden, real: hidden[:, 0],
    "last": _last,
    "mean": _mean,
}


def pooled(
    hidden: Float[Array, "batch length embed"], real: Int[Array, "batch length"], pool: str
) -> Float[Array, "batch *length embed"]:
    """The hidden states that a head reads: of all tokens, of the first or last, or the mean over all but padding.

    Raises:
      InputError: `pool` is not a key of `POOLS`.
    """
    return lookup(POOLS, pool, "config.model.task.pool")(hidden, real)
