"""A convolution beside a layer, for n-grams (He et al. 2021, the released DeBERTa-v2 models of 24 and 48 layers)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm_jax.core.config import InputError, lookup
from lm_jax.models import initializers
from lm_jax.models.config import InitConfig, NeighboursConfig, NormConfig
from lm_jax.models.feedforward.dense import ACTIVATIONS
from lm_jax.models.norms import Norm


class Neighbours(nn.Module):
    """norm(y + activation(convolution of x)), where `x` is a layer's input and `y` its output."""

    config: NeighboursConfig
    norm: NormConfig
    init_config: InitConfig
    dtype: jnp.dtype
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        y: Float[Array, "batch length embed"],
        segments: Int[Array, "batch length"] | None,
        train: bool = False,
    ) -> Float[Array, "batch length embed"]:
        """Adds the convolution, within segments, to the layer's output and normalises the sum; 0 at padding."""
        width, groups, embed = self.config.width, self.config.groups, x.shape[2]
        if embed % groups:
            raise InputError(f"block.neighbours.groups is {groups}, which does not divide embed.width {embed}")
        draw = initializers.kernel(self.init_config, width * embed // groups, embed)
        shape, axes = (width, groups, embed // groups, embed // groups), ("taps", "blocks", "embed", "embed_out")
        kernel = initializers.parameter(self, "kernel", draw, axes, shape).astype(self.dtype)
        bias = initializers.parameter(self, "bias", nn.initializers.zeros, ("norm",), (embed,))
        mixed = bias.astype(self.dtype)[None, None]
        for tap in range(width):
            shifted = _shift(x, tap - width // 2)
            if segments is not None:
                same = _shift(segments[..., None], tap - width // 2) == segments[..., None]
                shifted = jnp.where(same, shifted, 0)
            grouped = shifted.reshape(*x.shape[:2], groups, embed // groups)
            mixed = mixed + jnp.einsum("blgi,gio->blgo", grouped, kernel[tap]).reshape(x.shape)
        real = None if segments is None else segments[..., None] > 0
        mixed = nn.Dropout(self.dropout, deterministic=not train)(mixed)
        mixed = lookup(ACTIVATIONS, self.config.activation, "block.neighbours.activation")(mixed)
        y = Norm(self.norm, name="norm")(y + (mixed if real is None else jnp.where(real, mixed, 0)))
        return y if real is None else jnp.where(real, y, 0)


def _shift(x: jax.Array, offset: int) -> jax.Array:
    """Shifts `x` [batch length ...]: each token gets the value `offset` tokens later, or 0 beyond the ends."""
    length = x.shape[1]
    wide = jnp.pad(x, ((0, 0), (max(-offset, 0), max(offset, 0)), (0, 0)))
    return jax.lax.slice_in_dim(wide, max(offset, 0), max(offset, 0) + length, axis=1)
