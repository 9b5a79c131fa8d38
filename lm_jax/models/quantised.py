"""Frozen matrices in 8 or 4 bits: integer codes, with a scale for every block of 64 of them.

Dettmers et al. 2023 (QLoRA, arXiv:2305.14314): 4-bit NormalFloat, section 3 and appendix E; the scales are quantised
to 8 bits in groups of 256 ("double quantization"). Here the codes are chosen for the rounded scales, so that rounding
these adds no error, and blocks run along one axis of the matrix, so that codes are sharded as the matrix is.

A matrix, and each row of a token table by itself, is stored as

- `codes`: int8 `[*shape]`; of `nf4`, uint8 with two consecutive codes in a byte, so that the axis of blocks is halved;
- `scales`: int8 `[*shape]`, where the axis of blocks has one element for each block;
- `steps` [groups] and `mean` []: the scale of a block is mean + step * code / 127.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# The subtree that replaces the parameter of a module.
NAME = "quantised"
# Values of a block; scales of a group.
BLOCK, GROUP = 64, 256
# Smaller blocks would need more than half a bit per value for their scales.
LEAST_BLOCK = 16
# Quantiles of the normal distribution, of which one is 0, divided by the largest (appendix E).
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)

Stored = Mapping[str, jax.Array]


def block_axis(shape: tuple[int, ...], format: str) -> tuple[int, int] | None:
    """The axis along which a matrix is divided into blocks and the size of a block; None: no axis is suitable.

    A block has the largest size of at most `BLOCK` that divides an axis, the first axis of those with equal sizes.
    """
    largest = lambda size: next(block for block in range(min(BLOCK, size), 0, -1) if size % block == 0)
    blocks = [largest(size) if format == "int8" or size % 2 == 0 else 0 for size in shape]
    axis = blocks.index(max(blocks))
    return (axis, blocks[axis]) if blocks[axis] >= LEAST_BLOCK else None


def quantise(x: Float[Array, "*shape"], format: str, axis: int, block: int) -> dict[str, jax.Array]:
    """Stores a matrix in a format of `FORMATS`, with blocks along an axis."""
    blocks = x.reshape(*x.shape[:axis], -1, block, *x.shape[axis + 1 :])
    largest = jnp.abs(blocks).max(axis + 1)
    mean = largest.mean()
    offsets = (largest - mean).reshape(-1)
    groups = jnp.pad(offsets, (0, -offsets.size % GROUP)).reshape(-1, GROUP)
    steps = jnp.abs(groups).max(1)
    # Rounded up, so that no value exceeds its scale.
    ratios = jnp.ceil(127 * groups / jnp.where(steps > 0, steps, 1)[:, None])
    scales = jnp.clip(ratios, -127, 127).astype(jnp.int8).reshape(-1)[: offsets.size].reshape(largest.shape)
    stored = {"scales": scales, "steps": steps, "mean": mean}
    rounded = jnp.expand_dims(_scales(stored), axis + 1)
    codes = FORMATS[format](
        jnp.where(rounded > 0, blocks / jnp.where(rounded > 0, rounded, 1), 0).reshape(x.shape), axis
    )
    return {"codes": codes, **stored}


def dequantised(stored: Stored) -> Float[Array, "*shape"]:
    """The matrix in float32."""
    return _values(stored["codes"], _scales(stored))


def rows(stored: Stored, ids: Int[Array, "*batch"]) -> Float[Array, "*batch width"]:
    """Rows of a table whose blocks run along its rows, in float32: only these are dequantised."""
    codes, scales = jnp.take(stored["codes"], ids, axis=0), jnp.take(stored["scales"], ids, axis=0)
    blocks = scales.shape[-1]
    groups = (ids[..., None] * blocks + jnp.arange(blocks).reshape(*[1] * ids.ndim, blocks)) // GROUP
    return _values(codes, stored["mean"] + jnp.take(stored["steps"], groups) * (scales.astype(jnp.float32) / 127))


def apply(function: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, stored: Stored) -> jax.Array:
    """A function of activations and of the matrix, in their dtype.

    The matrix is dequantised again for the gradient: otherwise a copy of every matrix would be in memory from the
    forward to the backward pass.
    """
    return jax.checkpoint(lambda x, stored: function(x, dequantised(stored).astype(x.dtype)))(x, stored)


def _int8(x: jax.Array, axis: int) -> jax.Array:
    """Codes of values in [-1, 1], at equal distances."""
    return jnp.clip(jnp.round(127 * x), -127, 127).astype(jnp.int8)


def _nf4(x: jax.Array, axis: int) -> jax.Array:
    """The nearest levels of values in [-1, 1], with two codes in a byte, the first one in its upper half."""
    borders = [(low + high) / 2 for low, high in zip(NF4[:-1], NF4[1:], strict=True)]
    codes = sum((x > border).astype(jnp.uint8) for border in borders)
    pairs = jnp.asarray(codes).reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    first, second = (jax.lax.index_in_dim(pairs, index, axis + 1, keepdims=False) for index in (0, 1))
    return first << 4 | second


FORMATS: dict[str, Callable[[jax.Array, int], jax.Array]] = {"int8": _int8, "nf4": _nf4}


def _scales(stored: Stored) -> jax.Array:
    """The scales of all blocks, in float32."""
    codes = stored["scales"]
    steps = jnp.broadcast_to(stored["steps"][:, None], (stored["steps"].size, GROUP)).reshape(-1)[: codes.size]
    return stored["mean"] + steps.reshape(codes.shape) * (codes.astype(jnp.float32) / 127)


def _values(codes: jax.Array, scales: jax.Array) -> jax.Array:
    """The values of codes times the scales of their blocks."""
    axis = next(axis for axis, size in enumerate(scales.shape) if size != codes.shape[axis])
    if codes.dtype == jnp.int8:
        values = codes.astype(jnp.float32) / 127
    else:
        pairs = jnp.stack((codes >> 4, codes & 15), axis + 1)
        codes = pairs.reshape(*codes.shape[:axis], -1, *codes.shape[axis + 1 :])
        values = jnp.take(jnp.asarray(NF4, jnp.float32), codes.astype(jnp.int32), mode="clip")
    blocks = values.reshape(*scales.shape[: axis + 1], -1, *scales.shape[axis + 1 :])
    return (blocks * jnp.expand_dims(scales, axis + 1)).reshape(values.shape)
