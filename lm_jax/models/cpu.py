"""Detours around what XLA does slowly on a CPU; anywhere else each of them is the plain operation."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lm_jax.parallel.layout import platform


def here() -> bool:
    """Whether what is traced now will run on a CPU."""
    return platform() == "cpu"


def widened(*arrays: Array) -> tuple[Array, ...]:
    """What goes into a batched product, in float32: that of 16-bit numbers takes several times as long."""
    return tuple(x.astype(jnp.float32) for x in arrays) if here() else arrays


def repeated(x: Float[Array, "#batch ..."], rows: int) -> Float[Array, "batch ..."]:
    """`x` for every row; its gradient is a product with ones: a sum over a first axis can take 30 times as long."""
    if x.shape[0] == rows:
        return x
    return _repeated(x, rows) if here() else jnp.broadcast_to(x, (rows, *x.shape[1:]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _repeated(x: Array, rows: int) -> Array:
    return jnp.broadcast_to(x, (rows, *x.shape[1:]))


def _repeated_backward(rows: int, _: None, slope: Array) -> tuple[Array]:
    return (jnp.einsum("rb,b...->r...", jnp.ones((1, rows), slope.dtype), slope),)


_repeated.defvjp(lambda x, rows: (_repeated(x, rows), None), _repeated_backward)
