"""Samples token ids from a softmax by inverting its cumulative distribution, in two levels.

A first random number chooses a block of about sqrt(vocabulary) ids by the blocks' sums, a second an id of the block. It
needs two random numbers a position, whereas argmax(logits + Gumbel noise) needs one for every id of the vocabulary,
which takes ten times as long on a CPU. Two numbers of 24 bits resolve smaller probabilities than one.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

# Far below every probability in float32, but positive: the ids that are not excluded can always be told apart.
LEAST = 1e-30


def uniforms(keys: Key[Array, " rows"], *shape: int) -> Float[Array, "rows ..."]:
    """Uniform random numbers `[rows, *shape, 2]` for samples of that shape, from the key of each row."""
    return jax.vmap(lambda key: jax.random.uniform(key, (*shape, 2)))(keys)


def sample(masses: Float[Array, "tokens vocab"], uniforms: Float[Array, "tokens 2"]) -> Int[Array, " tokens"]:
    """Samples an id for each token, with probabilities proportional to `masses`."""
    blocks = _blocks(masses)
    block = _first(blocks.sum(-1), uniforms[:, 0])
    within = _first(_take(blocks, block), uniforms[:, 1])
    return (block * blocks.shape[2] + within).astype(jnp.int32)


def sample_distinct(
    logits: Float[Array, "tokens vocab"],
    uniforms: Float[Array, "tokens samples 2"],
    excluded: Int[Array, "tokens excluded"],
) -> Int[Array, "tokens samples"]:
    """Samples different ids for each token: one after the other from the softmax over the ids that remain.

    Args:
      logits: unnormalised log-probabilities.
      uniforms: random numbers in [0, 1).
      excluded: ids that are never sampled.
    """
    wide = logits.astype(jnp.float32)
    ids = jax.lax.broadcasted_iota(jnp.int32, wide.shape, 1)
    allowed = jnp.ones(wide.shape, bool)
    for column in range(excluded.shape[1]):
        allowed &= ids != excluded[:, column, None]
    wide = jnp.where(allowed, wide, -jnp.inf)
    masses = jnp.where(allowed, jnp.maximum(jnp.exp(wide - wide.max(-1, keepdims=True)), LEAST), 0.0)
    blocks = _blocks(masses)
    numbers, offsets = jnp.arange(blocks.shape[1])[None], jnp.arange(blocks.shape[2])[None]

    def step(state: tuple[jax.Array, jax.Array], column: tuple[jax.Array, jax.Array]):
        sums, samples = state
        number, uniform = column
        block = _first(sums, uniform[:, 0])
        members = (block[:, None] * blocks.shape[2] + offsets)[:, :, None]
        remaining = jnp.where((members == samples[:, None]).any(-1), 0.0, _take(blocks, block))
        within = _first(remaining, uniform[:, 1])
        rest = jnp.where(offsets == within[:, None], 0.0, remaining).sum(-1)
        sums = jnp.where(numbers == block[:, None], rest[:, None], sums)
        drawn = (block * blocks.shape[2] + within).astype(jnp.int32)
        return (sums, jnp.where(jnp.arange(samples.shape[1])[None] == number, drawn[:, None], samples)), None

    count = uniforms.shape[1]
    start = blocks.sum(-1), jnp.full((len(logits), count), -1, jnp.int32)
    return jax.lax.scan(step, start, (jnp.arange(count), uniforms.swapaxes(0, 1)))[0][1]


def _blocks(masses: jax.Array) -> jax.Array:
    """`masses` as [tokens, blocks, ids of a block], padded with zeros."""
    tokens, vocab = masses.shape
    size = math.ceil(math.sqrt(vocab))
    count = -(-vocab // size)
    return jnp.pad(masses, ((0, 0), (0, count * size - vocab))).reshape(tokens, count, size)


def _take(blocks: jax.Array, block: jax.Array) -> jax.Array:
    return jnp.take_along_axis(blocks, block[:, None, None], 1)[:, 0]


def _first(masses: jax.Array, uniform: jax.Array) -> jax.Array:
    """The first index with positive mass whose cumulative sum exceeds `uniform` times the total."""
    size = masses.shape[1]
    # Cumulative sums as a product with ones: a third faster than XLA's cumsum on a CPU.
    ones = jnp.triu(jnp.ones((size, size), masses.dtype))
    sums = jnp.where(masses > 0, jnp.dot(masses, ones, precision=jax.lax.Precision.HIGHEST), 0.0)
    # Rounded sums may decrease, so the total is the largest one: then the threshold is always exceeded.
    exceeds = sums > uniform[:, None] * sums.max(-1, keepdims=True)
    indices = jax.lax.broadcasted_iota(jnp.int32, masses.shape, 1)
    return jnp.minimum(jnp.where(exceeds, indices, size).min(-1), size - 1)
