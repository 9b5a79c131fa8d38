"""Sampling of the next token: temperature, top-k (Fan et al. 2018), top-p (Holtzman et al. 2020), greedy."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer, Key

from lm_jax.core.config import InputError
from lm_jax.models.heads import largest


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Settings of sampling, applied in this order.

    Attributes:
      temperature: divisor of the logits; 0 is greedy: the most probable token.
      top_k: sample from the `top_k` most probable tokens; 0: from all.
      top_p: after top-k, sample from the smallest set of most probable tokens with this total probability; 1: all.

    Example:
      >>> SamplingConfig(temperature=0.7, top_p=0.9)
      SamplingConfig(temperature=0.7, top_k=0, top_p=0.9)
      >>> logits, ids = top_k(jnp.array([[0.5, 3.0, 2.0, 1.0]]), count=2)
      >>> print(logits, ids)
      [[3. 2.]] [[1 2]]
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise InputError(f"--temperature is {self.temperature}; expected 0 (greedy) or a positive number")
        if self.top_k < 0:
            raise InputError(f"--top_k is {self.top_k}; expected a number of tokens, or 0 for all of them")
        if not 0 < self.top_p <= 1:
            raise InputError(f"--top_p is {self.top_p}; expected a share above 0 and at most 1 (all tokens)")


GREEDY = SamplingConfig(temperature=0.0)


def permitted(logits: Float[Array, "batch vocab"], allowed: Bool[Array, " vocab"]) -> Float[Array, "batch vocab"]:
    """Sets the logits of tokens that are not allowed to -inf."""
    return jnp.where(allowed[None], logits, -jnp.inf)


def top_k(
    logits: Float[Array, "batch vocab"], count: int
) -> tuple[Float[Array, "batch count"], Int[Array, "batch count"]]:
    """The `count` largest logits of each row, and their ids; ties go to the lowest ids.

    Reference: Fan et al. 2018 (arXiv:1805.04833), section 5.4.
    """
    values, ids = jax.lax.top_k(logits, min(count, logits.shape[-1]))
    return values, ids


def top_p(logits: Float[Array, "batch choices"], share: float) -> Float[Array, "batch choices"]:
    """Sets logits to -inf outside the smallest set of most probable choices with total probability `share`.

    Ties are kept or removed together. Bisection over bit patterns, which sort like positive floats, finds the smallest
    probability to keep in 30 sums; sorting the vocabulary takes 25 times as long on a CPU.

    Reference: Holtzman et al. 2020 (arXiv:1904.09751), section 3.1.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    bits = jax.lax.bitcast_convert_type(probabilities, jnp.int32)

    def bisect(_, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        enough = jnp.where(bits >= middle, probabilities, 0.0).sum(-1, keepdims=True) >= share
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    # Invariant: probabilities >= `low` add up to `share` or more, probabilities >= `high` do not.
    rows = (logits.shape[0], 1)
    start = jnp.zeros(rows, jnp.int32), jnp.full(rows, 0x3F800001, jnp.int32)
    least, _ = jax.lax.fori_loop(0, 30, bisect, start)
    return jnp.where(bits >= least, logits, -jnp.inf)


def row_keys(seed: int | Integer[Array, ""], rows: int | Integer[Array, " batch"]) -> Key[Array, " batch"]:
    """One random key per row, which depends on the seed and the row number only; `rows`: how many, or their numbers."""
    numbers = jnp.arange(rows) if isinstance(rows, int) else rows
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers)


def draw(
    logits: Float[Array, "batch vocab"], keys: Key[Array, " batch"], step: int | Int[Array, ""], config: SamplingConfig
) -> Int[Array, " batch"]:
    """The next token of each row.

    Args:
      logits: over the vocabulary; a token with -inf is never drawn.
      keys: from `row_keys`.
      step: number of tokens drawn before; a row's draw depends on its key, the step and its logits only.
      config: temperature, top-k and top-p.
    """
    if config.temperature == 0:
        return largest(logits)
    # float32: sums of bfloat16 probabilities are too coarse. Minus the maximum: a tiny temperature must not overflow.
    logits = logits.astype(jnp.float32)
    logits = (logits - logits.max(-1, keepdims=True)) / max(config.temperature, 1e-30)
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
    # With top-k, only `top_k` random numbers are drawn.
    logits, ids = top_k(logits, config.top_k) if config.top_k else (logits, None)
    logits = top_p(logits, config.top_p) if config.top_p < 1 else logits
    choice = jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)
    return choice if ids is None else jnp.take_along_axis(ids, choice[:, None], -1)[:, 0]
