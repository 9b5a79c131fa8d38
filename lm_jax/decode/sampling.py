"""From logits to the next token: temperature, top-k (Fan et al. 2018), top-p (Holtzman et al. 2020), greedy.

Each step is a function from logits to logits, -inf where a token may not be drawn; `draw` composes them.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from lm_jax.core.config import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the next token is chosen.

    Attributes:
      temperature: logits are divided by it; 0 takes the most probable token (greedy).
      top_k: only the `top_k` most probable tokens may be drawn; 0 is all.
      top_p: of those, only the fewest most probable ones that together have this share; 1 is all.
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
    """-inf where a token is not allowed at all."""
    return jnp.where(allowed[None], logits, -jnp.inf)


def top_k(logits: Float[Array, "batch vocab"], count: int) -> Float[Array, "batch vocab"]:
    """-inf outside the `count` largest logits of each row; of equal ones the lower ids stay.

    Reference: Fan et al. 2018 (arXiv:1805.04833), section 5.4.
    """
    _, chosen = jax.lax.top_k(logits, min(count, logits.shape[-1]))
    kept = jnp.zeros(logits.shape, bool).at[jnp.arange(logits.shape[0])[:, None], chosen].set(True)
    return jnp.where(kept, logits, -jnp.inf)


def top_p(logits: Float[Array, "batch vocab"], share: float) -> Float[Array, "batch vocab"]:
    """-inf outside the smallest set of most probable tokens whose probabilities add up to `share` or more.

    Reference: Holtzman et al. 2020 (arXiv:1904.09751), section 3.1.
    """
    order = jnp.argsort(logits, axis=-1, descending=True, stable=True)
    probabilities = jax.nn.softmax(jnp.take_along_axis(logits, order, -1), axis=-1)
    # What stands before a token decides: the one that reaches the share is still in, and the first always.
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    kept = jnp.zeros(logits.shape, bool).at[jnp.arange(logits.shape[0])[:, None], order].set(before < share)
    return jnp.where(kept, logits, -jnp.inf)


def row_keys(seed: int | Int[Array, ""], rows: int) -> Key[Array, " batch"]:
    """One random key a row: a function of the seed and the row's number alone."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(rows))


def draw(
    logits: Float[Array, "batch vocab"],
    keys: Key[Array, " batch"],
    step: int | Int[Array, ""],
    config: SamplingConfig,
) -> Int[Array, " batch"]:
    """The next token of each row.

    Args:
      logits: over the vocabulary; -inf is never drawn.
      keys: of `row_keys`.
      step: how many tokens were drawn before; a row's choice depends on its key, the step and its logits only.
      config: temperature, then top-k, then top-p.
    """
    if config.temperature == 0:
        return logits.argmax(-1).astype(jnp.int32)
    # float32: bfloat16 probabilities are too coarse to add up. Less the largest: a tiny temperature overflows otherwise.
    logits = logits.astype(jnp.float32)
    logits = (logits - logits.max(-1, keepdims=True)) / max(config.temperature, 1e-30)
    if config.top_k:
        logits = top_k(logits, config.top_k)
    if config.top_p < 1:
        logits = top_p(logits, config.top_p)
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)
