"""Parameter initialisation; each preset selects the scheme of its paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.core.config import lookup
from lm_jax.models.config import InitConfig

Initializer = Callable[..., jax.Array]
# (standard deviation, fan in, fan out) -> initializer
Scheme = Callable[[float, int, int], Initializer]


def _truncated_normal(stddev: float, fan_in: int, fan_out: int) -> Initializer:
    def draw(key, shape, dtype=jnp.float32):
        # As in TensorFlow (BERT), `stddev` is that of the normal distribution before truncation; jax's initializer of
        # this name rescales, so that the truncated distribution has it.
        return stddev * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)

    return draw


def _xavier_uniform(stddev: float, fan_in: int, fan_out: int) -> Initializer:
    limit = (6.0 / (fan_in + fan_out)) ** 0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -limit, limit)


def _small(stddev: float, fan_in: int, fan_out: int) -> Initializer:
    """SmallInit (Nguyen and Salazar 2019, arXiv:1910.05895, section 2.2): Xavier's variance for a d x 4 d matrix."""
    return jax.nn.initializers.normal((2 / (5 * min(fan_in, fan_out))) ** 0.5)


_fan_in: Scheme = lambda stddev, fan_in, fan_out: jax.nn.initializers.normal(fan_in**-0.5)
SCHEMES: dict[str, Scheme] = {
    "normal": lambda stddev, fan_in, fan_out: jax.nn.initializers.normal(stddev),
    "truncated_normal": _truncated_normal,
    "xavier_uniform": _xavier_uniform,
    "fan_in": _fan_in,
    "small": _small,
    "mup": _fan_in,
}


def parameter(
    module: nn.Module, name: str, draw: Initializer, axes: tuple[str, ...], shape: tuple[int, ...]
) -> jax.Array:
    """Declares a float32 parameter with the logical names of its axes."""
    return cast(jax.Array, module.param(name, nn.with_logical_partitioning(draw, axes), shape, jnp.float32))


def kernel(init: InitConfig, fan_in: int, fan_out: int, gain: float = 1.0) -> Initializer:
    """An initializer for a kernel from `fan_in` to `fan_out` features, scaled by `gain`."""
    draw = lookup(SCHEMES, init.name, "config.model.init.name")(init.stddev, fan_in, fan_out)
    return lambda key, shape, dtype=jnp.float32: draw(key, shape, dtype) * gain


def table(init: InitConfig, stddev: float | None = None) -> Initializer:
    """An initializer for an embedding table; `stddev` None: that of token tables."""
    if stddev is None:
        stddev = init.stddev if init.embed_stddev is None else init.embed_stddev
    scheme = "truncated_normal" if init.name == "truncated_normal" else "normal"
    return SCHEMES[scheme](stddev, 1, 1)


def readout(init: InitConfig, fan_in: int, fan_out: int) -> Initializer:
    """An initializer for a kernel to logits: under muP that of tables, because the number of logits is fixed."""
    return table(init) if init.name == "mup" else kernel(init, fan_in, fan_out)


def readout_scale(init: InitConfig, width: int) -> float:
    """The factor on logits (Yang et al. 2022, table 8, "output weights")."""
    return init.base_width / width if init.name == "mup" else 1.0


def score_scale(init: InitConfig, head_width: int) -> float:
    """The factor on attention scores: 1 / sqrt(d), or 1 / d for muP (Yang et al. 2022, definition 4.1)."""
    return 1.0 / head_width if init.name == "mup" else head_width**-0.5


def residual_gain(init: InitConfig, depth: int) -> float:
    """The gain of kernels that write to the residual stream, to which each of `depth` layers adds two branches."""
    return (2 * depth) ** -0.5 if init.scale_residual else 1.0
