"""Layer norm (Ba et al. 2016, arXiv:1607.06450) and RMS norm (Zhang and Sennrich 2019, arXiv:1910.07467)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lm_jax.core.config import InputError
from lm_jax.models.config import NormConfig
from lm_jax.models.initializers import parameter


class Norm(nn.Module):
    """Normalises the last axis and scales it by a learned vector."""

    config: NormConfig

    @nn.compact
    def __call__(self, x: Float[Array, "... embed"]) -> Float[Array, "... embed"]:
        """Normalises `x`; the result has its dtype."""
        if self.config.name not in ("layer", "rms"):
            raise InputError(f"norm.name is {self.config.name!r}; expected layer or rms")
        width = x.shape[-1]
        # float32: the variance of thousands of bfloat16 squares loses its last digits.
        y = x.astype(jnp.float32)
        if self.config.name == "layer":
            y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + self.config.epsilon)
        if self.config.scale:
            initial = nn.initializers.zeros if self.config.offset else nn.initializers.ones
            scale = parameter(self, "scale", initial, ("norm",), (width,))
            scale = 1 + scale if self.config.offset else scale
            y = y * scale.reshape((1,) * (x.ndim - 1) + (width,))
        if self.config.name == "layer" and self.config.bias:
            bias = parameter(self, "bias", nn.initializers.zeros, ("norm",), (width,))
            y = y + bias.reshape((1,) * (x.ndim - 1) + (width,))
        return y.astype(x.dtype)
