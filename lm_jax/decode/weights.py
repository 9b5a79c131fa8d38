"""Parameters prepared for a decoding loop: one tree per layer, in the dtype of the matrix products."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from lm_jax.core.trees import Params, map_named
from lm_jax.models import cpu
from lm_jax.models.axes import by_path, is_product
from lm_jax.models.embed import TRANSPOSED
from lm_jax.models.model import from_module
from lm_jax.models.stack.layers import grouped
from lm_jax.models.stack.loops import scanned, split_layers
from lm_jax.models.transformer import EncoderDecoder, Transformer


def unstacked(module: Transformer | EncoderDecoder, params: Params) -> Any:
    """Unstacks the layers of every unrolled stack, and casts matrices to the model's dtype.

    Otherwise every token slices each layer out of the stacked arrays and casts it. On a CPU, a tied embedding table is
    also stored transposed, for the read-out. Unstacked parameters are returned unchanged.
    """
    config = module.config
    params = dict(_cast(module, params))
    for name in ("stack", "encoder", "decoder"):
        done = name in params and isinstance(params[name].get("layers"), tuple)
        if name in params and not done and not scanned(getattr(config, name)):
            stack = params[name]
            groups = grouped(getattr(config, name), stack)
            rest = {key: tree for key, tree in stack.items() if key != "layers" and key not in groups}
            params[name] = {**rest, "layers": _unstack(getattr(config, name), groups)}
    table = "decoder_token" if "decoder_token" in params else "token"
    if config.readout.tied and TRANSPOSED not in params[table] and cpu.on_cpu():
        params[table] = {**params[table], TRANSPOSED: params[table]["embedding"].T}
    return params


def _cast(module: Any, params: Params) -> Any:
    """Casts matrices and tables to the model's dtype, but not norms, biases and integers."""
    dtype = jnp.dtype(module.config.dtype)
    if all(leaf.dtype == dtype for leaf in jax.tree.leaves(params)):
        return params
    products = _products(module)
    floating = lambda leaf: leaf.dtype != dtype and jnp.issubdtype(leaf.dtype, jnp.floating)
    return map_named(lambda path, leaf: leaf.astype(dtype) if path in products and floating(leaf) else leaf, params)


@functools.lru_cache(maxsize=32)
def _products(module: Transformer | EncoderDecoder) -> frozenset[str]:
    """The paths of a module's matrices and embedding tables."""
    return frozenset(path for path, names in by_path(from_module(module).axes).items() if is_product(names))


_unstack = jax.jit(split_layers, static_argnums=0)
