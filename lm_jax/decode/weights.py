"""Parameters as a decoding loop wants them: a tree per layer, in the dtype of the products."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lm_jax.core.trees import map_named
from lm_jax.models import cpu
from lm_jax.models.embed import TURNED
from lm_jax.models.stack.layers import grouped
from lm_jax.models.stack.loops import one_a_layer, scanned
from lm_jax.models.transformer import EncoderDecoder, Transformer

# What the model multiplies in its own dtype. Norms and position biases stay float32.
_PRODUCTS = ("kernel", "embedding")


def unstacked(module: Transformer | EncoderDecoder, params: Any) -> Any:
    """`params` with the layers of every unrolled stack taken apart once, and matrices in the model's dtype.

    Otherwise each token would slice every layer out of the stacked arrays, and cast it. On a CPU a tied token table is
    there a second time, as the matrix that logits are made with. What has been taken apart already comes back as it is.
    """
    config, dtype = module.config, jnp.dtype(module.config.dtype)
    params = dict(params)
    for name in ("stack", "encoder", "decoder"):
        taken = name in params and isinstance(params[name].get("layers"), tuple)
        if name in params and not taken and not scanned(getattr(config, name)):
            stack = params[name]
            groups = grouped(getattr(config, name), stack)
            rest = {part: tree for part, tree in stack.items() if part != "layers" and part not in groups}
            params[name] = {**rest, "layers": _unstack(getattr(config, name), groups)}
    cast = lambda path, leaf: (
        leaf.astype(dtype) if path.rsplit("/", 1)[-1] in _PRODUCTS and leaf.dtype != dtype else leaf
    )
    params = map_named(cast, params)
    table = "decoder_token" if "decoder_token" in params else "token"
    if config.readout.tied and TURNED not in params[table] and cpu.here():
        params[table] = {**params[table], TURNED: params[table]["embedding"].T}
    return params


def bound(module: Transformer | EncoderDecoder, params: Any) -> Callable[..., Any]:
    """`module.apply` with its parameters given."""
    return functools.partial(module.apply, {"params": params})


_unstack = jax.jit(one_a_layer, static_argnums=0)
