"""Outputs of a checkpoint with two-stream attention (XLNet), under the names of the reference implementation."""

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


def trace(checkpoint: Checkpoint, params: Params, inputs: Arrays) -> Arrays:
    """Hidden states, attention probabilities and memories of every layer; of both streams if there are targets.

    The inputs are `input_ids`, and optionally `attention_mask` or its opposite `input_mask`, `token_type_ids`,
    `perm_mask`, `target_mapping` and `mems/0` ... [length batch embed].
    """
    config = cast(TransformerConfig, checkpoint.config)
    # Unrolled, so that the past is a tuple with an entry per layer.
    config = dataclasses.replace(config, stack=dataclasses.replace(config.stack, scan="never"))
    module, length = transformer.build_transformer(config), inputs["input_ids"].shape[1]
    mapping = inputs.get("target_mapping")
    targets, rows = (None, None) if mapping is None else _targets(mapping)
    output: Any = module.apply(
        {"params": params}, _inputs(inputs, targets), cache=_past(inputs, module), show=("hidden", "attention")
    )
    pick = lambda x: x if rows is None else jnp.take_along_axis(x, rows[..., None], 1)
    outputs: Arrays = {"last": pick(output.hidden)}
    for index, x in enumerate(output.shown.hidden):
        if mapping is None:
            outputs[f"hidden_states/{index}"] = x
        else:
            outputs[f"hidden_states/{2 * index}"] = x[:, :length]
            outputs[f"hidden_states/{2 * index + 1}"] = pick(x[:, length:])
    for index, weights in enumerate(output.shown.attention):
        if mapping is None:
            outputs[f"attentions/{index}"] = weights
        else:
            outputs[f"attentions/{index}/0"] = weights[:, :, :length]
            outputs[f"attentions/{index}/1"] = weights[:, :, length : 2 * length]
    if checkpoint.tree.get("use_mems_eval", True):
        outputs |= {f"mems/{index}": layer["past"].swapaxes(0, 1) for index, layer in enumerate(output.cache.layers)}
    return outputs


def _past(inputs: Arrays, module: Any) -> Past:
    """The memory of every layer; empty if the inputs have none."""
    depth = module.config.stack.depth
    if "mems/0" not in inputs:
        return module.empty_past(inputs["input_ids"].shape[0])
    missing = [name for name in (f"mems/{layer}" for layer in range(depth)) if name not in inputs]
    if missing:
        raise InputError(f"inputs has mems/0, but not {missing[0]}; give the memory of all {depth} layers, or of none")
    return Past(tuple({"past": inputs[f"mems/{layer}"].swapaxes(0, 1)} for layer in range(depth)))


def _inputs(inputs: Arrays, targets: Any) -> Inputs:
    """Converts the reference's arguments to ours: a token attends to itself, and otherwise as the masks allow."""
    mask, opposite = inputs.get("attention_mask"), inputs.get("input_mask")
    if mask is not None and opposite is not None:
        raise InputError("inputs has attention_mask and its opposite input_mask; leave out one of them")
    mask = 1 - opposite if opposite is not None else mask
    (batch, length), unseen = inputs["input_ids"].shape, inputs.get("perm_mask")
    return Inputs(
        tokens=inputs["input_ids"],
        visible=None if mask is None else (mask > 0).astype(jnp.int32),
        types=inputs.get("token_type_ids"),
        unseen=jnp.zeros((batch, length, length), bool) if unseen is None else unseen > 0,
        targets=targets,
    )


def _targets(mapping: Any) -> tuple[Any, Any]:
    """Targets of the query stream (one per position, and one without a token), and the target of each row of `mapping`.

    All positions are targets, because the reference returns the query stream's attention at every position. Rows of
    `mapping` without a token select the last target.
    """
    rows = np.asarray(mapping)
    if not np.isin(rows, (0, 1)).all() or (rows.sum(2) > 1).any() or (rows.sum(1) > 1).any():
        raise InputError("target_mapping must have at most one 1 per row and per token, and 0 elsewhere")
    length = rows.shape[2]
    places = np.where(rows.any(1), np.arange(length), ~np.arange(length))
    targets = np.pad(places, ((0, 0), (0, 1)), constant_values=-1).astype(np.int32)
    selected = np.where(rows.any(2), rows.argmax(2), length)
    return jnp.asarray(targets), jnp.asarray(selected)
