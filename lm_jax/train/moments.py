"""Moments of an optimizer in 16 or 8 bits, which are decoded for each update.

- `bfloat16`: the first 16 bits of a float32.
- `int8`: integer codes with a float32 scale for each row of the last axis, its largest magnitude. Block-wise codes are
  those of Dettmers et al. 2022 (arXiv:2110.02861); here rows are the blocks, so that codes are sharded as the parameter
  and scales as its other axes, and the code c of L stands for (c / L)^4 of the scale. First moments have a sign and
  L = 127, second ones L = 255. Rows of less than 16 values stay float32.

A value between two codes takes either, with probabilities that keep its mean (stochastic rounding): with b2 = 0.999 a
second moment changes by a thousandth, less than half the distance of two codes, so the nearest one would never change.
The random numbers are hashes of the number of updates, the moment's path and the position: a resumed run, and any
number of devices, draws the same.

At a share r of the row's largest value, codes of `int8` are about 4 r^(3/4) / L of the scale apart: for second moments
1.6 % of the largest value and 5 % of one a hundred times smaller; for first moments 3.1 % and 10 %. Positive second
moments have at least the code 1, 2.4e-10 of the scale, because the update divides by their root. bfloat16 codes are at
most 0.8 % apart.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Shaped, UInt32

from lm_jax.core.trees import Params, map_named, named_leaves
from lm_jax.train.generators import hashed_bits

# Fields of optimizer states that have an array for each parameter, and whether it can be negative.
SIGNED = {"mu": True, "trace": True, "nu": False}
# The field of `Narrowed` in which `placing` looks for scales.
SCALES = "scales"
# Shorter rows would need a quarter of a byte or more for the scale of each value.
LEAST_ROW = 16

Codes = Shaped[Array, "*shape"]


class Narrowed(NamedTuple):
    """State of `narrowed`.

    Attributes:
      count: number of updates.
      inner: the state of the transformation, with codes for moments.
      scales: float32 `[*shape[:-1], 1]` of each moment that has scales, by its path in `inner`.
    """

    count: Int[Array, ""] | Any
    inner: Any
    scales: dict[str, Any]


class Format(NamedTuple):
    """How moments are stored.

    Attributes:
      encode: (moment, whether it can be negative, random bits) -> codes, and scales or None.
      decode: (codes, scales or None) -> the moment in float32.
      least: the shortest row that is encoded.
    """

    encode: Callable[[Array, bool, Array], tuple[Array, Array | None]]
    decode: Callable[[Array, Array | None], Array]
    least: int = 0


def narrowed(direction: optax.GradientTransformation, format: Format) -> optax.GradientTransformation:
    """Stores the moments of a transformation in a format; all that it computes stays float32.

    Its updates follow from the new moments before these are rounded. Counts and other fields stay as they are.

    Args:
      direction: a transformation whose moments are zero at first, such as `optax.scale_by_adam()`.
      format: one of `FORMATS`.

    Example:
      >>> adam = narrowed(optax.scale_by_adam(), FORMATS["int8"])
      >>> state = adam.init({"kernel": jnp.zeros((4, 32))})
      >>> state.inner.mu["kernel"].dtype, state.inner.nu["kernel"].dtype, state.scales["nu/kernel"].shape
      (dtype('int8'), dtype('uint8'), (4, 1))
    """

    def encode(inner: Any, count: Any, params: Any) -> Narrowed:
        fields, codes, scales = _fields(inner, params), {}, {}
        stored = {path: leaf for path, leaf in named_leaves(inner) if path in fields}
        stored = {path: leaf for path, leaf in stored.items() if (1, *leaf.shape)[-1] >= format.least}
        for key, (path, leaf) in zip(_keys(count, list(stored)), stored.items(), strict=True):
            codes[path], scale = format.encode(leaf, SIGNED[fields[path]], hashed_bits(key, 32, leaf.shape))
            if scale is not None:
                scales[path] = scale
        return Narrowed(count, map_named(lambda path, leaf: codes.get(path, leaf), inner), scales)

    def init(params: Any) -> Narrowed:
        inner, zero = direction.init(params), jnp.zeros((), jnp.int32)
        shapes = jax.eval_shape(encode, inner, zero, params)
        zeros = lambda like: jnp.zeros(like.shape, like.dtype)
        kept = lambda leaf, like: leaf if leaf.dtype == like.dtype else zeros(like)
        return Narrowed(zero, jax.tree.map(kept, inner, shapes.inner), jax.tree.map(zeros, shapes.scales))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Narrowed]:
        fields = _fields(state.inner, updates)
        decoded = lambda path, leaf: format.decode(leaf, state.scales.get(path)) if path in fields else leaf
        updates, inner = direction.update(updates, map_named(decoded, state.inner), params)
        return updates, encode(inner, optax.safe_increment(state.count), updates)

    return optax.GradientTransformation(init, update)


def of(state: Any, params: Params) -> dict[str, Any]:
    """The moments in an optimizer state, or in its shapes, by path: the leaves that are shaped as their parameter."""
    fields = _fields(state, params)
    return {path: leaf for path, leaf in named_leaves(state) if path in fields}


def _fields(state: Any, params: Params) -> dict[str, str]:
    """The field of `SIGNED` of each moment by path, which ends with the field and the path of a parameter."""
    names, fields = {name for name, _ in named_leaves(params)}, {}
    for path, _ in named_leaves(state):
        words = path.split("/")
        for index, word in enumerate(words):
            if word in SIGNED and SCALES not in words[:index] and "/".join(words[index + 1 :]) in names:
                fields[path] = word
    return fields


def _keys(count: Int[Array, ""], paths: list[str]) -> UInt32[Array, "moments 2"]:
    """A key for each moment of an update."""
    base = jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), count)
    hashes = jnp.asarray(np.array([zlib.crc32(path.encode()) for path in paths], np.uint32))
    return jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(base, hashes))


def _to_bfloat16(x: Float[Array, "*shape"], signed: bool, bits: UInt32[Array, "*shape"]) -> tuple[Array, None]:
    """Rounds the magnitude up with the probability of the 16 bits that are cut off."""
    carried = jax.lax.bitcast_convert_type(x, jnp.uint32) + (bits >> 16)
    rounded = jax.lax.bitcast_convert_type((carried >> 16).astype(jnp.uint16), jnp.bfloat16)
    # The bits of a NaN could overflow into those of a number.
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16)), None


def _to_codes(x: Float[Array, "*shape"], signed: bool, bits: UInt32[Array, "*shape"]) -> tuple[Array, Array]:
    levels = 127 if signed else 255
    scale = jnp.abs(x).max(-1, keepdims=True)
    share = jnp.where(scale > 0, jnp.abs(x) / jnp.where(scale > 0, scale, 1), 0)
    low = jnp.clip(jnp.floor(levels * jnp.sqrt(jnp.sqrt(share))), 0, levels - 1)
    below, above = ((code / levels) ** 4 for code in (low, low + 1))
    uniform = (bits >> 8).astype(jnp.float32) * 2.0**-24
    code = low + (share - below > uniform * (above - below))
    if signed:
        return (jnp.sign(x) * code).astype(jnp.int8), scale
    return jnp.where(share > 0, jnp.maximum(code, 1), 0).astype(jnp.uint8), scale


def _from_codes(codes: Codes, scale: Array | None) -> Float[Array, "*shape"]:
    if scale is None:
        return codes
    share = codes.astype(jnp.float32) / (127 if codes.dtype == jnp.int8 else 255)
    return scale * (share * jnp.abs(share) ** 3)


FORMATS: dict[str, Format | None] = {
    "float32": None,
    "bfloat16": Format(_to_bfloat16, lambda codes, scale: codes.astype(jnp.float32)),
    "int8": Format(_to_codes, _from_codes, LEAST_ROW),
}
