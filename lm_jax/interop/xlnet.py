"""What a checkpoint with two streams (XLNet) computes, under the reference implementation's names."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from lm_jax.core.config import InputError
from lm_jax.core.trees import Params
from lm_jax.interop.huggingface import Checkpoint
from lm_jax.models import transformer
from lm_jax.models.config import TransformerConfig
from lm_jax.models.interface import Inputs, Past

Arrays = dict[str, Any]


def trace(checkpoint: Checkpoint, params: Params, given: Arrays) -> Arrays:
    """Hidden states, attention probabilities and memories of every layer, of both streams where there are targets.

    Args:
      checkpoint: of a model with a query stream.
      params: its parameters.
      given: `input_ids`, and where there are such `attention_mask` or its opposite `input_mask`, `token_type_ids`,
        `perm_mask`, `target_mapping` and `mems/0` ... [length batch embed].
    """
    config = cast(TransformerConfig, checkpoint.config)
    # Unrolled: a past is then a tuple of layers.
    config = dataclasses.replace(config, stack=dataclasses.replace(config.stack, scan="never"))
    module, length, mapping = (
        transformer.build_transformer(config),
        given["input_ids"].shape[1],
        given.get("target_mapping"),
    )
    targets, rows = (None, None) if mapping is None else _targets(mapping)
    output: Any = module.apply(
        {"params": params}, _inputs(given, targets), cache=_past(given, module), show=("hidden", "attention")
    )
    pick = lambda x: x if rows is None else jnp.take_along_axis(x, rows[..., None], 1)
    found: Arrays = {"last": pick(output.hidden)}
    for index, x in enumerate(output.shown.hidden):
        if mapping is None:
            found[f"hidden_states/{index}"] = x
        else:
            found[f"hidden_states/{2 * index}"] = x[:, :length]
            found[f"hidden_states/{2 * index + 1}"] = pick(x[:, length:])
    for index, weights in enumerate(output.shown.attention):
        if mapping is None:
            found[f"attentions/{index}"] = weights
        else:
            found[f"attentions/{index}/0"] = weights[:, :, :length]
            found[f"attentions/{index}/1"] = weights[:, :, length : 2 * length]
    if checkpoint.tree.get("use_mems_eval", True):
        found |= {f"mems/{index}": layer["past"].swapaxes(0, 1) for index, layer in enumerate(output.cache.layers)}
    return found


def _past(given: Arrays, module: Any) -> Past:
    """The memory of every layer; empty where none is given."""
    depth = module.config.stack.depth
    if "mems/0" not in given:
        return module.empty_past(given["input_ids"].shape[0])
    lost = [name for name in (f"mems/{layer}" for layer in range(depth)) if name not in given]
    if lost:
        raise InputError(f"mems/0 is given, but {lost[0]} is not; give the memory of all {depth} layers, or none")
    return Past(tuple({"past": given[f"mems/{layer}"].swapaxes(0, 1)} for layer in range(depth)))


def _inputs(given: Arrays, targets: Any) -> Inputs:
    """The reference's arguments as ours: tokens see all that is not padding nor hidden, and in any case themselves."""
    mask, opposite = given.get("attention_mask"), given.get("input_mask")
    if mask is not None and opposite is not None:
        raise InputError("attention_mask and input_mask are both given, and say the same: leave out one of them")
    mask = 1 - opposite if opposite is not None else mask
    (batch, length), hidden = given["input_ids"].shape, given.get("perm_mask")
    return Inputs(
        tokens=given["input_ids"],
        visible=None if mask is None else (mask > 0).astype(jnp.int32),
        types=given.get("token_type_ids"),
        unseen=jnp.zeros((batch, length, length), bool) if hidden is None else hidden > 0,
        targets=targets,
    )


def _targets(mapping: Any) -> tuple[Any, Any]:
    """A row of the query stream for every place and one that asks for nothing, and which of them are asked for.

    The reference shows what the query stream would attend to from every place. Rows that mark no token ask for nothing.
    """
    rows = np.asarray(mapping)
    if not np.isin(rows, (0, 1)).all() or (rows.sum(2) > 1).any() or (rows.sum(1) > 1).any():
        raise InputError("target_mapping must mark at most one token a row with 1, and no token twice; the rest is 0")
    length = rows.shape[2]
    places = np.where(rows.any(1), np.arange(length), ~np.arange(length))
    targets = np.pad(places, ((0, 0), (0, 1)), constant_values=-1).astype(np.int32)
    asked = np.where(rows.any(2), rows.argmax(2), length)
    return jnp.asarray(targets), jnp.asarray(asked)
