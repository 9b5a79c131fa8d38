"""Feed-forward layers of which each token takes a few (Shazeer et al. 2017, arXiv:1701.06538; Jiang et al. 2024).

No token is dropped and no expert has room to fill: tokens are sorted by expert, and each expert multiplies its own.
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
    """A matrix for each expert."""

    shape: tuple[int, int, int]
    axes: tuple[str, str, str]
    kernel_init: initializers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "tokens in"], sizes: Int[Array, " experts"]) -> Float[Array, "tokens out"]:
        """The first `sizes[0]` rows of `x` times the first matrix, the next `sizes[1]` times the second, ..."""
        kernel = initializers.parameter(self, "kernel", self.kernel_init, self.axes, self.shape)
        return jax.lax.ragged_dot(x, kernel.astype(self.dtype), sizes)


class Experts(nn.Module):
    """The `top` experts of each token, weighted by what the router thinks of them.

    Router logits [tokens experts] are sown as `router/logits` where `apply(..., mutable="router")` asks for them.
    """

    config: FeedForwardConfig
    init_config: InitConfig
    dtype: jnp.dtype
    residual_gain: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length embed"], train: bool = False
    ) -> Float[Array, "batch length embed"]:
        """The branch's contribution to the residual stream."""
        config, embed = self.config, x.shape[-1]
        count, top, mlp = config.experts.count, config.experts.top, config.width or 4 * embed
        activation = lookup(ACTIVATIONS, config.activation, "feedforward.activation")
        draw = initializers.kernel(self.init_config, embed, count)
        route = Projection((embed,), (count,), ("embed", "router"), draw, False, jnp.dtype(jnp.float32), name="router")
        tokens = x.reshape(-1, embed)
        # float32: near ties decide where a token goes.
        scores = route(tokens.astype(jnp.float32))
        self.sow("router", "logits", scores)
        share, chosen = jax.lax.top_k(jax.nn.softmax(scores), top)
        share = share / share.sum(-1, keepdims=True)
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
        made = bank("out", mlp, embed, self.residual_gain)(hidden, sizes)
        # Back in the tokens' order: argsort of an order is its inverse.
        made = made[jnp.argsort(order)].reshape(-1, top, embed)
        return (made * share[..., None].astype(made.dtype)).sum(1).reshape(x.shape)


def balance(
    logits: Float[Array, "*layers tokens experts"], top: int, weights: Float[Array, " tokens"] | None = None
) -> Float[Array, ""]:
    """How unevenly experts are used: 1 where all get the same share of tokens and of probability (times `top`).

    Args:
      logits: the router's, of one layer or of several.
      top: experts of a token.
      weights: 0 where a token does not count; None counts all.

    Reference: Fedus et al. 2022 (arXiv:2101.03961), eqs. 4-6, as Mixtral's released code sums it.
    """
    count = logits.shape[-1]
    chance = jax.nn.softmax(logits)
    chosen = jax.nn.one_hot(jax.lax.top_k(chance, top)[1], count).sum(-2)
    weights = jnp.broadcast_to(1.0 if weights is None else weights, logits.shape[:-1])[..., None]
    share = lambda x: (x * weights).reshape(-1, count).sum(0) / jnp.maximum(weights.sum(), 1)
    return count * (share(chosen) * share(chance)).sum()
