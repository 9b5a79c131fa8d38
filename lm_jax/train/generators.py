"""Generators of the random numbers of dropout on the device.

`threefry` is jax's own (Salmon et al. 2011). `hashed` hashes the position of each number and the key with the finaliser
of MurmurHash3 (Appleby 2011, public domain), which takes a tenth of the time on a CPU. Both depend on the position
only, so devices that share an array draw what one would draw. Keys are always derived by threefry.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt, UInt32

from lm_jax.core.config import lookup


def _mixed(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """MurmurHash3's finaliser, a permutation of 32 bits in which every bit depends on all others."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def hashed_bits(key: UInt32[Array, " 2"], bit_width: int, shape: tuple[int, ...]) -> UInt[Array, "*shape"]:
    """Random unsigned integers of 8, 16, 32 or 64 bits, from a key and their positions."""
    if bit_width == 64:
        high, low = hashed_bits(key, 32, (2, *shape)).astype(jnp.uint64)
        return (high << 32) | low
    rows, *rest = shape or (1,)
    # Positions count within a row, because an array may have more than 2^32 numbers.
    row, ones = jax.lax.iota(jnp.uint32, rows), [1] * len(rest)
    position = jnp.zeros((rows, *rest), jnp.uint32) + _mixed(row + key[0]).reshape(rows, *ones)
    for axis in range(1, len(rest) + 1):
        stride = jnp.uint32(math.prod(rest[axis:]) % (1 << 32))
        position = position + jax.lax.broadcasted_iota(jnp.uint32, (rows, *rest), axis) * stride
    # Mixed again with another hash of the row: rows with close starts would repeat each other's numbers.
    bits = _mixed(_mixed(position) ^ _mixed(row ^ key[1]).reshape(rows, *ones))
    return bits.reshape(shape).astype(f"uint{bit_width}")


@functools.cache
def _hashed() -> Hashable:
    from jax.extend import random

    wrap = functools.partial(jax.random.wrap_key_data, impl="threefry2x32")
    return random.define_prng_impl(
        key_shape=(2,),
        seed=lambda seed: jax.random.key_data(jax.random.key(seed, impl="threefry2x32")),
        split=lambda key, shape: jax.random.key_data(jax.random.split(wrap(key), shape)),
        random_bits=hashed_bits,
        fold_in=lambda key, data: jax.random.key_data(jax.random.fold_in(wrap(key), data)),
        name="hashed",
        tag="hash",
    )


GENERATORS: dict[str, Callable[[], Hashable]] = {"threefry": lambda: "threefry2x32", "hashed": _hashed}


def key(seed: int, generator: str = "threefry") -> jax.Array:
    """A random key for one of `GENERATORS`.

    Example:
      >>> keep = jax.random.bernoulli(key(0, "hashed"), 0.9, (1000, 100))
      >>> round(float(keep.mean()), 3)
      0.9
    """
    return jax.random.key(seed, impl=lookup(GENERATORS, generator, "config.train.generator")())
