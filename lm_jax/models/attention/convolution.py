"""Short causal depthwise convolutions over the sequence.

They apply to queries, keys and values (Primer: So et al. 2021, arXiv:2109.08668, section 3.1) and to the input of the
feed-forward layers. They give bigram and trigram features from the start, which attention would have to learn.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lm_jax.models.initializers import parameter


class Convolution(nn.Module):
    """y[t] = sum over j < width of kernel[j] * x[t - j], for every head and feature; initialised to y = x.

    Attributes:
      width: width of the kernel in tokens, including the current token.
      heads_axis: logical name of the axis of heads.
    """

    width: int
    heads_axis: str

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch heads length kv"],
        recent: Float[Array, "batch heads before kv"] | None,
        same_text: Bool[Array, "#batch length before"],
    ) -> tuple[Float[Array, "batch heads length kv"], Float[Array, "batch heads before kv"]]:
        """Returns the convolution, and the last width - 1 tokens of `x` for the next call.

        `x` is queries, keys, values, or the residual stream as one head; `recent` the width - 1 tokens before it (None:
        zeros). `same_text[..., j]` is whether the token j + 1 positions earlier belongs to the same text.
        """
        batch, heads, length, kv = x.shape
        before = self.width - 1
        identity = lambda key, shape, dtype: jnp.zeros(shape, dtype).at[0].set(1)
        kernel = parameter(self, "kernel", identity, ("taps", self.heads_axis, "kv"), (self.width, heads, kv))
        taps = kernel.astype(x.dtype)[:, None, :, None, :]
        recent = jnp.zeros((batch, heads, before, kv), x.dtype) if recent is None else recent.astype(x.dtype)
        extended = jnp.concatenate([recent, x], axis=2)
        y = x * taps[0]
        for back in range(1, self.width):
            earlier = jax.lax.slice_in_dim(extended, before - back, before - back + length, axis=2)
            y = y + jnp.where(same_text[:, None, :, back - 1, None], earlier, 0) * taps[back]
        return y, extended[:, :, length:]
