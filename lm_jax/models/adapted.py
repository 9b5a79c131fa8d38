"""What modules compute with parameters that an adaptation has added to theirs (`lm_jax.adapt`).

Beside `kernel` and `bias`, a projection from `inputs` to `outputs` may have

- `lora/down [*inputs rank]`, `lora/up [rank *outputs]` and `lora/scale []`: a low-rank product, added to the kernel;
- `lora/magnitude [*outputs]`: norms to which the columns of the sum are rescaled;
- `ia3/inputs [*inputs]`: factors on what is projected;
- `ia3/outputs [*outputs]`: factors on the result, bias included;
- `quantised/...` instead of `kernel`: its codes and scales (`models.quantised`).

A block may have adapters, small networks behind its attention or its feed-forward layer: in `adapter/BRANCH`, `down`
is a projection from `embed` to `rank` and `up` one back. In a stack, each parameter has a leading axis of layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lm_jax.core.trees import Params
from lm_jax.models import cpu, quantised

ADDED = ("lora", "ia3")


def product(
    x: Float[Array, "tokens in"],
    kernel: Float[Array, "in out"] | quantised.Stored,
    size_out: int,
    added: Mapping[str, Any],
) -> Float[Array, "tokens out"]:
    """The product of inputs and an adapted kernel, which may be stored as codes.

    The low-rank product is never formed for LoRA: the inputs pass through both factors, so that the gradient needs no
    matrix of the kernel's size. Magnitudes need the norms of the sum, which are constants to the gradient (Liu et al.
    2024, arXiv:2402.09353, section 4.3).
    """
    dtype, size_in = x.dtype, x.shape[1]
    flat = lambda kernel: kernel.reshape(size_in, size_out)
    stored = isinstance(kernel, Mapping)
    if "inputs" in added.get("ia3", {}):
        x = x * added["ia3"]["inputs"].astype(dtype).reshape(1, size_in)
    y = quantised.apply(lambda x, kernel: x @ flat(kernel), x, kernel) if stored else x @ kernel.astype(dtype)
    if lora := added.get("lora"):
        down, up = lora["down"].reshape(size_in, -1), lora["up"].reshape(-1, size_out)
        y = y + (x @ down.astype(dtype)) @ up.astype(dtype) * lora["scale"].astype(dtype)
        if "magnitude" in lora:
            wide = flat(quantised.dequantised(kernel)) if stored else kernel
            norms = jax.lax.stop_gradient(jnp.linalg.norm(wide + lora["scale"] * (down @ up), axis=0))
            y = y * (lora["magnitude"].reshape(size_out) / norms).astype(dtype)[None]
    return y


def scaled(y: Float[Array, "tokens out"], added: Mapping[str, Any]) -> Float[Array, "tokens out"]:
    """The result of a projection times its factors, if it has any."""
    factors = added.get("ia3", {}).get("outputs")
    return y if factors is None else y * factors.astype(y.dtype).reshape(1, -1)


def bottleneck(y: Float[Array, "batch length embed"], added: Mapping[str, Any]) -> Float[Array, "batch length embed"]:
    """The output of a branch and what its adapter adds (Houlsby et al. 2019, arXiv:1902.00751, section 2.1)."""

    def dense(x: jax.Array, layer: Mapping[str, jax.Array]) -> jax.Array:
        product = x @ layer["kernel"].astype(y.dtype)
        return product + cpu.broadcast_rows(layer["bias"].astype(y.dtype)[None], len(product))

    inner = jax.nn.relu(dense(y.reshape(-1, y.shape[-1]), added["down"]))
    return y + dense(inner, added["up"]).reshape(y.shape)


def folded(tree: Params) -> Params:
    """Parameters without `ADDED`, whose effect is then in kernels and biases; adapters remain."""
    if any(name in tree for name in ADDED):
        return _folded(tree)
    # Projections in a stack have a leading axis.
    inner = lambda name, branch: jax.vmap(folded)(branch) if name == "layers" else folded(branch)
    return {name: inner(name, branch) if isinstance(branch, Mapping) else branch for name, branch in tree.items()}


def _folded(tree: Params) -> Params:
    """The kernel and bias of a projection."""
    kernel, bias, ia3 = tree["kernel"], tree.get("bias"), tree.get("ia3", {})
    if lora := tree.get("lora"):
        kernel = kernel + lora["scale"] * jnp.tensordot(lora["down"], lora["up"], 1)
        if "magnitude" in lora:
            norms = jnp.sqrt(jnp.square(kernel).sum(tuple(range(lora["down"].ndim - 1))))
            kernel = kernel * _leading(lora["magnitude"] / norms, kernel)
    if "inputs" in ia3:
        kernel = kernel * ia3["inputs"].reshape(*ia3["inputs"].shape, *[1] * (kernel.ndim - ia3["inputs"].ndim))
    if "outputs" in ia3:
        kernel = kernel * _leading(ia3["outputs"], kernel)
        bias = None if bias is None else bias * ia3["outputs"]
    return {"kernel": kernel} if bias is None else {"kernel": kernel, "bias": bias}


def _leading(x: jax.Array, like: jax.Array) -> jax.Array:
    """`x` with leading axes of size 1, as many as it lacks."""
    return x.reshape(*[1] * (like.ndim - x.ndim), *x.shape)
