"""A matrix between named axes, the one place where activations meet a weight."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.models import cpu
from lm_jax.models.initializers import Initializer, parameter


class Projection(nn.Module):
    """y = x W + b from the last axes of x to new axes.

    Attributes:
      inputs, outputs: sizes of the axes that go and of those that come.
      axes: logical names of the kernel's axes, inputs first.
      kernel_init: draws the kernel in its full shape.
      bias: whether there is one, drawn as zeros.
      dtype: what the product is computed in.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    axes: tuple[str, ...]
    kernel_init: Initializer
    bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`x` [..., *inputs] to [..., *outputs]."""
        kernel = parameter(self, "kernel", self.kernel_init, self.axes, (*self.inputs, *self.outputs))
        lead = x.shape[: x.ndim - len(self.inputs)]
        size_in, size_out = math.prod(self.inputs), math.prod(self.outputs)
        # Flattened to one matrix product: XLA's batched products are slower on a CPU.
        y = x.reshape(-1, size_in) @ kernel.astype(self.dtype).reshape(size_in, size_out)
        if self.bias:
            bias = parameter(self, "bias", nn.initializers.zeros, self.axes[len(self.inputs) :], self.outputs)
            y = y + cpu.repeated(bias.astype(self.dtype).reshape(1, size_out), y.shape[0])
        return y.reshape(*lead, *self.outputs)
