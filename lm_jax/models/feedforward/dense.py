"""Position-wise feed-forward layers (Vaswani et al. 2017, section 3.3; gated: Shazeer 2020, arXiv:2002.05202)."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lm_jax.core.config import lookup
from lm_jax.models import initializers
from lm_jax.models.config import FeedForwardConfig, InitConfig
from lm_jax.models.projection import Projection
from lm_jax.models.remat import lean, named
from lm_jax.parallel.layout import constrain


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """GELU: x times the normal distribution function at x (Hendrycks and Gimpel 2016, section 2)."""
    # erf, as in the reference implementations: erfc takes more than twice as long on a CPU. 1 + erf(x) cancels for
    # x << 0, so it is computed in float32.
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (0.5 * wide * (1.0 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


# quick_gelu: Hendrycks and Gimpel 2016, section 2; squared_relu: So et al. 2021 (arXiv:2109.08668), section 3.
ACTIVATIONS = {
    "gelu": gelu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "squared_relu": lambda x: jnp.square(jax.nn.relu(x)),
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}


class FeedForward(nn.Module):
    """Returns out(activation(in(x))), or out(activation(gate(x)) * in(x)) if gated (SwiGLU: silu, GeGLU: gelu)."""

    config: FeedForwardConfig
    init_config: InitConfig
    dtype: jnp.dtype
    residual_gain: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length embed"], train: bool = False
    ) -> Float[Array, "batch length embed"]:
        """Returns the branch to be added to the residual stream."""
        embed, mlp = x.shape[-1], self.config.width or 4 * x.shape[-1]
        activation = lookup(ACTIVATIONS, self.config.activation, "feedforward.activation")
        kernel_in = initializers.kernel(self.init_config, embed, mlp)
        kernel_out = initializers.kernel(self.init_config, mlp, embed, self.residual_gain)

        def project(name: str) -> jax.Array:
            settings = (("embed", "mlp"), kernel_in, self.config.bias, self.dtype)
            return named(Projection((embed,), (mlp,), *settings, name=name)(x), name)

        hidden = project("in")
        product = lambda gate, hidden: activation(gate) * hidden
        hidden = lean(product)(project("gate"), hidden) if self.config.gated else lean(activation)(hidden)
        hidden = constrain(hidden, "batch", "length", "mlp")
        hidden = nn.Dropout(self.config.dropout, deterministic=not train)(hidden)
        out = Projection((mlp,), (embed,), ("mlp", "embed"), kernel_out, self.config.bias, self.dtype, name="out")
        return named(out(hidden), "feedforward_out")
