"""Layer norm (Ba et al. 2016, arXiv:1607.06450) and RMS norm (Zhang and Sennrich 2019, arXiv:1910.07467)."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lm_jax.core.config import InputError
from lm_jax.models.config import NormConfig
from lm_jax.models.initializers import parameter
from lm_jax.models.remat import lean


class Norm(nn.Module):
    """Normalises the last axis and scales it by a learned vector."""

    config: NormConfig

    @nn.compact
    def __call__(self, x: Float[Array, "... embed"]) -> Float[Array, "... embed"]:
        """Normalises `x`; the result has its dtype."""
        if self.config.name not in ("layer", "rms"):
            raise InputError(f"norm.name is {self.config.name!r}; expected layer or rms")
        config, width, scale, bias = self.config, x.shape[-1], None, None
        if config.scale:
            initial = nn.initializers.zeros if config.offset else nn.initializers.ones
            scale = parameter(self, "scale", initial, ("norm",), (width,))
        if config.name == "layer" and config.bias:
            bias = parameter(self, "bias", nn.initializers.zeros, ("norm",), (width,))
        return lean(functools.partial(_normalise, config))(x, scale, bias)


def _normalise(config: NormConfig, x: Array, scale: Array | None, bias: Array | None) -> Array:
    per_feature = lambda vector: vector.reshape((1,) * (x.ndim - 1) + vector.shape)
    # float32: the variance of thousands of bfloat16 squares loses its last digits.
    y = x.astype(jnp.float32)
    if config.name == "layer":
        y = y - y.mean(-1, keepdims=True)
    y = y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + config.epsilon)
    if scale is not None:
        y = y * per_feature(1 + scale if config.offset else scale)
    if bias is not None:
        y = y + per_feature(bias)
    return y.astype(x.dtype)
