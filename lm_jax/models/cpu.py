"""Replacements for operations that XLA runs slowly on a CPU; on other platforms, the plain operations."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lm_jax.parallel.layout import platform


def on_cpu() -> bool:
    """Whether the function being traced will run on a CPU."""
    return platform() == "cpu"


def upcast(*arrays: Array) -> tuple[Array, ...]:
    """Casts operands of a batched product to float32 on a CPU, where 16-bit products take several times as long."""
    return tuple(x.astype(jnp.float32) for x in arrays) if on_cpu() else arrays


def broadcast_rows(x: Float[Array, "#batch ..."], rows: int) -> Float[Array, "batch ..."]:
    """Broadcasts `x` to `rows`; its gradient is a product with ones: summing the first axis can be 30 times slower."""
    if x.shape[0] == rows:
        return x
    return _broadcast_rows(x, rows) if on_cpu() else jnp.broadcast_to(x, (rows, *x.shape[1:]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _broadcast_rows(x: Array, rows: int) -> Array:
    return jnp.broadcast_to(x, (rows, *x.shape[1:]))


def _broadcast_rows_backward(rows: int, _: None, gradient: Array) -> tuple[Array]:
    return (jnp.einsum("rb,b...->r...", jnp.ones((1, rows), gradient.dtype), gradient),)


_broadcast_rows.defvjp(lambda x, rows: (_broadcast_rows(x, rows), None), _broadcast_rows_backward)
