"""Dense layers between named axes."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.models import adapted, cpu, quantised
from lm_jax.models.initializers import Initializer, parameter
from lm_jax.models.remat import named
from lm_jax.parallel import products


class Projection(nn.Module):
    """y = x W + b, contracting the last axes of x.

    Attributes:
      inputs, outputs: sizes of the contracted axes and of the produced axes.
      axes: logical names of the kernel's axes, inputs first.
      kernel_init: initializer of the kernel in its full shape.
      bias: whether to add a bias, initialised to zeros.
      dtype: dtype of the product.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    axes: tuple[str, ...]
    kernel_init: Initializer
    bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `x` [..., *inputs] to [..., *outputs]."""
        lead = x.shape[: x.ndim - len(self.inputs)]
        size_in, size_out = math.prod(self.inputs), math.prod(self.outputs)
        added = {name: self.get_variable("params", name) for name in adapted.ADDED if self.has_variable("params", name)}
        if self.has_variable("params", quantised.NAME):
            stored = self.get_variable("params", quantised.NAME)
            y = adapted.product(x.reshape(-1, size_in), stored, size_out, added)
        else:
            kernel = parameter(self, "kernel", self.kernel_init, self.axes, (*self.inputs, *self.outputs))
            y = self._product(x, kernel, added)
        if self.bias:
            bias = parameter(self, "bias", nn.initializers.zeros, self.axes[len(self.inputs) :], self.outputs)
            y = y + cpu.broadcast_rows(bias.astype(self.dtype).reshape(1, size_out), y.shape[0])
        return adapted.scaled(y, added).reshape(*lead, *self.outputs)

    def _product(self, x: jax.Array, kernel: jax.Array, added: dict[str, Any]) -> jax.Array:
        """`x` [..., *inputs] times the kernel, as a matrix with the flattened outputs."""
        size_in, size_out = math.prod(self.inputs), math.prod(self.outputs)
        layout = None if added or x.ndim == len(self.inputs) else products.explicit(x.shape[0], self.axes)
        if layout is not None:
            y = products.product(layout, x, kernel.astype(self.dtype), self.axes, len(self.inputs))
            return named(y, "product").reshape(-1, size_out)
        # A single matrix product: XLA's batched products are slower on a CPU.
        x, kernel = x.reshape(-1, size_in), kernel.reshape(size_in, size_out)
        return adapted.product(x, kernel, size_out, added) if added else x @ kernel.astype(self.dtype)
