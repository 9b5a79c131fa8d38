"""Mixture of experts with top-k routing (Shazeer et al. 2017, arXiv:1701.06538; Jiang et al. 2024).

Experts have no capacity limit, so no token is dropped: tokens are sorted by expert for one ragged product.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm_jax.core.config import lookup
from lm_jax.models import initializers
from lm_jax.models.config import FeedForwardConfig, InitConfig
from lm_jax.models.feedforward.dense import ACTIVATIONS
from lm_jax.models.projection import Projection
from lm_jax.parallel.layout import constrain


class Bank(nn.Module):
    """One matrix per expert."""

    shape: tuple[int, int, int]
    axes: tuple[str, str, str]
    kernel_init: initializers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "tokens in"], sizes: Int[Array, " experts"]) -> Float[Array, "tokens out"]:
        """Multiplies the first `sizes[0]` rows of `x` by the first matrix, the next `sizes[1]` by the second, ..."""
        kernel = initializers.parameter(self, "kernel", self.kernel_init, self.axes, self.shape)
        return jax.lax.ragged_dot(x, kernel.astype(self.dtype), sizes)


class Experts(nn.Module):
    """The sum of each token's `top` experts, weighted by router probabilities.

    Sows router logits [tokens experts] as `router/logits`, for `apply(..., mutable="router")`.
    """

    config: FeedForwardConfig
    init_config: InitConfig
    dtype: jnp.dtype
    residual_gain: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length embed"], train: bool = False
    ) -> Float[Array, "batch length embed"]:
        """Returns the branch to be added to the residual stream."""
        config, embed = self.config, x.shape[-1]
        count, top, mlp = config.experts.count, config.experts.top, config.width or 4 * embed
        activation = lookup(ACTIVATIONS, config.activation, "feedforward.activation")
        draw = initializers.kernel(self.init_config, embed, count)
        route = Projection((embed,), (count,), ("embed", "router"), draw, False, jnp.dtype(jnp.float32), name="router")
        tokens = x.reshape(-1, embed)
        # float32: rounding would change the experts of near ties.
        scores = route(tokens.astype(jnp.float32))
        self.sow("router", "logits", scores)
        weights, chosen = jax.lax.top_k(jax.nn.softmax(scores), top)
        weights = weights / weights.sum(-1, keepdims=True)
        order = jnp.argsort(chosen.reshape(-1), stable=True)
        sizes = jnp.bincount(chosen.reshape(-1), length=count)
        rows = tokens[order // top]

        def bank(name: str, fan_in: int, fan_out: int, gain: float = 1.0) -> Bank:
            draw = initializers.kernel(self.init_config, fan_in, fan_out, gain)
            axes = ("experts", "embed", "mlp") if name != "out" else ("experts", "mlp", "embed")
            return Bank((count, fan_in, fan_out), axes, draw, self.dtype, name=f"experts_{name}")

        hidden = bank("in", embed, mlp)(rows, sizes)
        gate = bank("gate", embed, mlp)(rows, sizes) if config.gated else None
        hidden = activation(hidden) if gate is None else activation(gate) * hidden
        hidden = nn.Dropout(config.dropout, deterministic=not train)(constrain(hidden, None, "mlp"))
        outputs = bank("out", mlp, embed, self.residual_gain)(hidden, sizes)
        # Back to the order of the tokens: the argsort of a permutation is its inverse.
        outputs = outputs[jnp.argsort(order)].reshape(-1, top, embed)
        return (outputs * weights[..., None].astype(outputs.dtype)).sum(1).reshape(x.shape)


def balance(
    logits: Float[Array, "*layers tokens experts"], top: int, weights: Float[Array, " tokens"] | None = None
) -> Float[Array, ""]:
    """Load-balancing loss: equals `top` if all experts have equal shares of tokens and of probability.

    Args:
      logits: router logits of one or several layers.
      top: experts per token.
      weights: 0 where a token does not count; None: all count.

    Reference: Fedus et al. 2022 (arXiv:2101.03961), eqs. 4-6, as Mixtral's released code sums it.
    """
    count = logits.shape[-1]
    probabilities = jax.nn.softmax(logits)
    chosen = jax.nn.one_hot(jax.lax.top_k(probabilities, top)[1], count).sum(-2)
    weights = jnp.broadcast_to(1.0 if weights is None else weights, logits.shape[:-1])[..., None]
    mean = lambda x: (x * weights).reshape(-1, count).sum(0) / jnp.maximum(weights.sum(), 1)
    return count * (mean(chosen) * mean(probabilities)).sum()
