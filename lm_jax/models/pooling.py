"""Pooling: the hidden states of a row that the head of a task, or a vector, is made of."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm_jax.core.config import lookup

# Pools that read one token of each row: the index of it, from an array that is 0 at padding [batch length].
PLACES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "first": lambda real: jnp.zeros(len(real), jnp.int32),
    "last": lambda real: (jnp.arange(real.shape[1])[None] * (real > 0)).max(-1),
}


def _place(pool: str, hidden: jax.Array, real: jax.Array) -> jax.Array:
    return jnp.take_along_axis(hidden, PLACES[pool](real)[:, None, None], 1)[:, 0]


def _mean(hidden: jax.Array, real: jax.Array) -> jax.Array:
    used = (real > 0).astype(hidden.dtype)[..., None]
    return (hidden * used).sum(1) / jnp.maximum(used.sum(1), 1)


# (hidden states [batch length embed], 0 at padding [batch length]) -> what the head reads.
POOLS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "all": lambda hidden, real: hidden,
    **{name: functools.partial(_place, name) for name in PLACES},
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


def read(real: Int[Array, "batch length"], pool: str) -> Int[Array, "batch read"] | None:
    """Indices of the only tokens that `pool` reads, for `Inputs.read`; None: all."""
    return PLACES[pool](real)[:, None] if pool in PLACES else None


def pooled_read(
    hidden: Float[Array, "batch read embed"], real: Int[Array, "batch length"], pool: str
) -> Float[Array, "batch *length embed"]:
    """As `pooled`, from the hidden states of the tokens that `read` names."""
    return hidden[:, 0] if pool in PLACES else pooled(hidden, real, pool)
