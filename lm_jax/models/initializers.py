"""How parameters are drawn; each preset says which of these its paper used."""

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
        # Not jax's initializer of this name: that one widens the bell so that the cut one has `stddev`;
        # BERT's (TensorFlow's) cuts a bell of `stddev`.
        return stddev * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)

    return draw


def _xavier_uniform(stddev: float, fan_in: int, fan_out: int) -> Initializer:
    limit = (6.0 / (fan_in + fan_out)) ** 0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -limit, limit)


def _small(stddev: float, fan_in: int, fan_out: int) -> Initializer:
    """SmallInit (Nguyen and Salazar 2019, arXiv:1910.05895, section 2.2): as Xavier draws a matrix of d x 4 d."""
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
    """A float32 parameter of a module, born with the logical names of its axes."""
    return cast(jax.Array, module.param(name, nn.with_logical_partitioning(draw, axes), shape, jnp.float32))


def kernel(init: InitConfig, fan_in: int, fan_out: int, gain: float = 1.0) -> Initializer:
    """An initializer for a matrix that maps `fan_in` numbers to `fan_out`, its draws multiplied by `gain`."""
    draw = lookup(SCHEMES, init.name, "config.model.init.name")(init.stddev, fan_in, fan_out)
    return lambda key, shape, dtype=jnp.float32: draw(key, shape, dtype) * gain


def table(init: InitConfig, stddev: float | None = None) -> Initializer:
    """An initializer for an embedding table, with the standard deviation of token tables where None is given."""
    if stddev is None:
        stddev = init.stddev if init.embed_stddev is None else init.embed_stddev
    scheme = "truncated_normal" if init.name == "truncated_normal" else "normal"
    return SCHEMES[scheme](stddev, 1, 1)


def answer(init: InitConfig, fan_in: int, fan_out: int) -> Initializer:
    """An initializer for a matrix whose outputs are answers (logits): their number does not grow with the model."""
    return table(init) if init.name == "mup" else kernel(init, fan_in, fan_out)


def answer_scale(init: InitConfig, width: int) -> float:
    """What answers are multiplied by (Yang et al. 2022, table 8, "output weights")."""
    return init.base_width / width if init.name == "mup" else 1.0


def score_scale(init: InitConfig, head_width: int) -> float:
    """What attention scores are multiplied by: 1 / sqrt(d), or 1 / d under muP (Yang et al. 2022, definition 4.1)."""
    return 1.0 / head_width if init.name == "mup" else head_width**-0.5


def residual_gain(init: InitConfig, depth: int) -> float:
    """The gain of a matrix that writes to the residual stream of `depth` layers of two branches each."""
    return (2 * depth) ** -0.5 if init.scale_residual else 1.0
