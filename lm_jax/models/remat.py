"""Which values of a layer the backward pass keeps, and which it computes again (Chen et al. 2016, arXiv:1604.06174)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from lm_jax.core.config import InputError, nearest

# Values of a layer that can be kept: the residual stream before a branch; projections; the output of the kernel of
# attention; the outputs of the branches.
NAMES = ("residual", "query", "key", "value", "attended", "attention_out", "gate", "in", "feedforward_out")
# The products that take most of the time, without the scores of attention.
PRODUCTS = ("query", "key", "value", "attended", "attention_out", "gate", "in")
policies = jax.checkpoint_policies
CHOICES: dict[str, Callable[[Any], Any]] = {
    "none": lambda layer: layer,
    "full": jax.checkpoint,
    "dots": functools.partial(jax.checkpoint, policy=policies.dots_with_no_batch_dims_saveable),
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
