"""Which values of a layer the backward pass keeps, and which it computes again (Chen et al. 2016, arXiv:1604.06174)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from lm_jax.core.config import InputError, nearest
from lm_jax.models.cpu import on_cpu

# Values of a layer that can be kept: the residual stream before a branch; projections; the output of the kernel of
# attention; the outputs of the branches.
NAMES = ("residual", "query", "key", "value", "attended", "attention_out", "gate", "in", "feedforward_out")
# The products that take most of the time, without the scores of attention.
PRODUCTS = ("query", "key", "value", "attended", "attention_out", "gate", "in")
policies = jax.checkpoint_policies
CHOICES: dict[str, Callable[[Any], Any]] = {
    "none": lambda layer: layer,
    "full": jax.checkpoint,
    # Explicit products are dots that jax does not see.
    "dots": functools.partial(
        jax.checkpoint,
        policy=policies.save_from_both_policies(
            policies.dots_with_no_batch_dims_saveable, policies.save_only_these_names("product")
        ),
    ),
    "minimal": functools.partial(jax.checkpoint, policy=policies.save_only_these_names(*PRODUCTS)),
    "save_qkv": functools.partial(jax.checkpoint, policy=policies.save_only_these_names(*PRODUCTS[:3])),
    "save_attention": functools.partial(jax.checkpoint, policy=policies.save_only_these_names(*PRODUCTS[:5])),
    "offload": functools.partial(
        jax.checkpoint,
        policy=policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=["residual"],
            offload_src="device",
            offload_dst="pinned_host",
        ),
    ),
}


def named(x: jax.Array, name: str) -> jax.Array:
    """Returns `x`, which `stack.remat` can then keep by one of `NAMES`."""
    return checkpoint_name(x, name)


def lean(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Returns an elementwise or row-wise `function`, whose backward pass keeps its inputs and computes it again.

    Otherwise the float32 values that it computes from a 16-bit first argument would be kept. In float32 there is less
    to save, and on a CPU the second computation is not free: there the function stays as it is.
    """

    def apply(x: jax.Array, *others: Any) -> jax.Array:
        if x.dtype.itemsize > 2 or on_cpu():
            return function(x, *others)
        return _lean(function, x, *others)

    return apply


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _lean(function: Callable[..., jax.Array], *arguments: Any) -> jax.Array:
    return function(*arguments)


def _again(function: Callable[..., jax.Array], arguments: tuple[Any, ...], gradient: jax.Array) -> tuple[Any, ...]:
    # Behind the barrier the compiler does not find the values of the forward pass, which it would keep.
    return jax.vjp(function, *jax.lax.optimization_barrier(arguments))[1](gradient)


_lean.defvjp(lambda function, *arguments: (function(*arguments), arguments), _again)


def rematerialised(layer: Callable[..., Any], remat: str) -> Callable[..., Any]:
    """Returns the layer, whose backward pass keeps what `remat` says: a choice, or names separated by commas.

    Raises:
      InputError: there is no such choice or name.
    """
    if remat in CHOICES:
        return CHOICES[remat](layer)
    names = tuple(remat.split(","))
    for name in names:
        if name not in NAMES:
            raise InputError(
                f"stack.remat is {remat!r}{nearest(name, (*CHOICES, *NAMES))}; expected one of {', '.join(CHOICES)}, "
                f"or the values to keep, separated by commas, of {', '.join(NAMES)}"
            )
    return jax.checkpoint(layer, policy=policies.save_only_these_names(*names))
