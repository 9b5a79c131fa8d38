"""Mixture of experts with top-k routing (Shazeer et al. 2017, arXiv:1701.06538; Jiang et al. 2024).

Experts have no capacity limit, so no token is dropped: tokens are sorted by expert for one ragged product. XLA's own
ragged product multiplies every token by every expert on a TPU, so there it is Pallas' grouped product (`megablox`,
after Gale et al. 2022, arXiv:2211.15841).
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm_jax.core.config import lookup
from lm_jax.models import initializers
from lm_jax.models.config import FeedForwardConfig, InitConfig
from lm_jax.models.feedforward.dense import ACTIVATIONS
from lm_jax.models.projection import Projection
from lm_jax.parallel.layout import constrain, divided, platform
from lm_jax.parallel.products import on_rows
from lm_jax.parallel.rings import LANES
from lm_jax.parallel.rules import Rules

# Rows of a block of a grouped product, of which the largest that divides the rows is used, and the longest other side.
ROWS, SIDE = (512, 256, 128), 1024


class Bank(nn.Module):
    """One matrix per expert."""

    shape: tuple[int, int, int]
    axes: tuple[str, str, str]
    kernel_init: initializers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self) -> Float[Array, "experts inputs outputs"]:
        """Returns the matrices in the type of products."""
        return initializers.parameter(self, "kernel", self.kernel_init, self.axes, self.shape).astype(self.dtype)


class Experts(nn.Module):
    """The sum of each token's `top` experts, weighted by router probabilities.

    Each device sorts the tokens of its own rows. Sows router logits [tokens experts] as `router/logits`, for
    `apply(..., mutable="router")`.
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
        draw = initializers.kernel(self.init_config, embed, count)
        route = Projection((embed,), (count,), ("embed", "router"), draw, False, jnp.dtype(jnp.float32), name="router")
        # float32: rounding would change the experts of near ties.
        scores = route(x.reshape(-1, embed).astype(jnp.float32))
        self.sow("router", "logits", scores)
        weights, chosen = (each.reshape(*x.shape[:2], top) for each in jax.lax.top_k(jax.nn.softmax(scores), top))
        weights = weights / weights.sum(-1, keepdims=True)

        names = ("in", "gate", "out") if config.gated else ("in", "out")
        sizes = {name: (embed, mlp) if name != "out" else (mlp, embed) for name in names}
        axes = {name: ("experts", "embed", "mlp") if name != "out" else ("experts", "mlp", "embed") for name in names}
        kernels = {}
        for name, (fan_in, fan_out) in sizes.items():
            gain = self.residual_gain if name == "out" else 1.0
            draw = initializers.kernel(self.init_config, fan_in, fan_out, gain)
            bank = Bank((count, fan_in, fan_out), axes[name], draw, self.dtype, name=f"experts_{name}")
            kernels[name] = bank()
        rows = [x, weights, chosen]
        if train and config.dropout:
            keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - config.dropout, (*chosen.shape, mlp))
            rows.append(keep / jnp.asarray(1 - config.dropout, self.dtype))
        return on_rows(functools.partial(_mixed, config), kernels, axes, *rows)


def _mixed(
    config: FeedForwardConfig,
    kernels: dict[str, jax.Array],
    x: jax.Array,
    weights: jax.Array,
    chosen: jax.Array,
    *kept: jax.Array,
) -> jax.Array:
    """The sum of the experts of each token of some rows; `kept` multiplies hidden features [batch length top mlp]."""
    activation, top = lookup(ACTIVATIONS, config.activation, "feedforward.activation"), chosen.shape[-1]
    order = jnp.argsort(chosen.reshape(-1), stable=True)
    sizes = jnp.bincount(chosen.reshape(-1), length=len(kernels["in"]))
    rows = x.reshape(-1, x.shape[-1])[order // top]
    hidden = _product(rows, kernels["in"], sizes)
    gate = _product(rows, kernels["gate"], sizes) if config.gated else None
    hidden = constrain(activation(hidden) if gate is None else activation(gate) * hidden, None, "mlp")
    for factors in kept:
        hidden = hidden * factors.reshape(-1, factors.shape[-1])[order]
    outputs = _product(hidden, kernels["out"], sizes)
    # Back to the order of the tokens: the argsort of a permutation is its inverse.
    outputs = outputs[jnp.argsort(order)].reshape(*chosen.shape, -1)
    return (outputs * weights[..., None].astype(outputs.dtype)).sum(-2)


def _product(rows: jax.Array, kernels: jax.Array, sizes: jax.Array) -> jax.Array:
    """The first `sizes[0]` rows times the first matrix, the next `sizes[1]` times the second, ..."""
    tile = next((size for size in ROWS if len(rows) % size == 0), None)
    if tile is None or platform() != "tpu" or divided(*vars(Rules())):
        return jax.lax.ragged_dot(rows, kernels, sizes)
    return grouped(rows, kernels, sizes, tile)


def grouped(
    rows: Float[Array, "rows inputs"],
    kernels: Float[Array, "experts inputs outputs"],
    sizes: Int[Array, " experts"],
    tile: int,
    interpret: bool = False,
) -> Float[Array, "rows outputs"]:
    """`jax.lax.ragged_dot` as a TPU kernel, which multiplies a token by its own experts only.

    Args:
      rows: sorted by expert; a multiple of `tile`.
      kernels: a matrix for each expert.
      sizes: rows of each expert; their sum is the number of rows.
      tile: rows of a block.
      interpret: whether to run without a TPU, slowly.
    """
    from jax.experimental.pallas.ops.tpu.megablox import gmm

    side = lambda size: min(-(-size // LANES) * LANES, SIDE)
    # The products of the backward pass have other sides.
    tiling = lambda _, inputs, outputs: (tile, side(inputs), side(outputs))
    return gmm(rows, kernels, sizes.astype(jnp.int32), rows.dtype, tiling, interpret=interpret)


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
