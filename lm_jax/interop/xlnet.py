"""What a checkpoint with two streams (XLNet) computes, layer by layer, under the reference implementation's names."""

from __future__ import annotations

from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from lm_jax.core.config import InputError
from lm_jax.interop.huggingface import Checkpoint
from lm_jax.models.attention import recurrence, two_stream
from lm_jax.models.attention.masks import Visibility
from lm_jax.models.config import TransformerConfig
from lm_jax.models.stack import segments
from lm_jax.models.stack.block import Block, Context
from lm_jax.models.stack.layers import grouped, one_a_layer

Arrays = dict[str, Any]


def trace(checkpoint: Checkpoint, params: Any, given: Arrays) -> Arrays:
    """Hidden states, attention probabilities and memories of every layer, of both streams where there are targets.

    Args:
      checkpoint: of a model with a query stream.
      params: its parameters.
      given: `input_ids`, and where there are such `attention_mask` or its opposite `input_mask`, `token_type_ids`,
        `perm_mask`, `target_mapping` and `mems/0` ... [length batch embed].
    """
    config, module = cast(TransformerConfig, checkpoint.config), checkpoint.module.bind({"params": params})
    tokens, stack = given["input_ids"], config.stack
    (batch, length), mapping = tokens.shape, given.get("target_mapping")
    x = module.embed(module.token(tokens), None, None)
    pasts = _pasts(given, batch, stack.depth, x)
    visibility = recurrence.placed(_visibility(given, length), length, pasts[0].shape[1])
    seen, shown = visibility, visibility
    if mapping is not None:
        seen = two_stream.placed(visibility, _targets(mapping), length)
        everywhere = jnp.broadcast_to(jnp.arange(length)[None], (batch, length))
        shown = two_stream.placed(visibility, everywhere, length)
        x = module.query_stream(x, jnp.zeros(mapping.shape[:2], jnp.int32))
    found: Arrays = {}
    _show_states(found, 0, x, length)
    for index, (layer, own) in enumerate(
        zip(segments.layers(stack), one_a_layer(stack, grouped(stack, params["stack"])), strict=True)
    ):
        block, cache = Block(stack.kind(layer.kind), config.init, x.dtype, 1.0), {"past": pasts[index]}
        apply = lambda x, visibility, block=block, own=own, cache=cache: block.apply(
            {"params": own}, x, Context(visibility=visibility), cache, mutable=["probabilities"]
        )
        # The reference shows what the query stream would attend to from every place, and asks with zeros where no
        # target is.
        asked = x if mapping is None else _spread(x, mapping, length)
        weights = apply(asked, shown)[1]["probabilities"]["attention"]["weights"][0]
        (x, after), _ = apply(x, seen)
        if checkpoint.tree.get("use_mems_eval", True):
            found[f"mems/{index}"] = recurrence.kept(config.memory, pasts[index], after["past"]).swapaxes(0, 1)
        if mapping is None:
            found[f"attentions/{index}"] = weights
        else:
            found[f"attentions/{index}/0"], found[f"attentions/{index}/1"] = (
                weights[:, :, :length],
                weights[:, :, length:],
            )
        _show_states(found, index + 1, x, length)
    found["last"] = x if mapping is None else x[:, length:]
    return found


def _show_states(found: Arrays, index: int, x: Any, length: int) -> None:
    """Adds the states before a layer; those of two streams stand one after the other."""
    if x.shape[1] == length:
        found[f"hidden_states/{index}"] = x
    else:
        found[f"hidden_states/{2 * index}"], found[f"hidden_states/{2 * index + 1}"] = x[:, :length], x[:, length:]


def _pasts(given: Arrays, batch: int, depth: int, x: Any) -> list[Any]:
    """The memory of every layer with the batch first; empty ones where none are given."""
    if "mems/0" not in given:
        return [jnp.zeros((batch, 0, x.shape[2]), x.dtype)] * depth
    lost = [name for name in (f"mems/{layer}" for layer in range(depth)) if name not in given]
    if lost:
        raise InputError(f"mems/0 is given, but {lost[0]} is not; give the memory of all {depth} layers, or none")
    return [given[f"mems/{layer}"].swapaxes(0, 1) for layer in range(depth)]


def _visibility(given: Arrays, length: int) -> Visibility:
    """What tokens see: all that is not padding and not hidden from them, and in any case themselves."""
    mask, opposite = given.get("attention_mask"), given.get("input_mask")
    if mask is not None and opposite is not None:
        raise InputError("attention_mask and input_mask are both given, and say the same: leave out one of them")
    mask = 1 - opposite if opposite is not None else mask
    types, hidden = given.get("token_type_ids"), given.get("perm_mask")
    return Visibility(
        key_segments=None if mask is None else (mask > 0).astype(jnp.int32),
        query_types=types,
        key_types=types,
        own=length,
        unseen=None if hidden is None else hidden > 0,
    )


def _targets(mapping: Any) -> Any:
    """The token that each row of `target_mapping` marks, -1 where it marks none."""
    rows = np.asarray(mapping)
    if not np.isin(rows, (0, 1)).all() or (rows.sum(2) > 1).any() or (rows.sum(1) > 1).any():
        raise InputError("target_mapping must mark at most one token a row with 1, and no token twice; the rest is 0")
    return jnp.asarray(np.where(rows.any(2), rows.argmax(2), -1).astype(np.int32))


def _spread(x: Any, mapping: Any, length: int) -> Any:
    """Both streams, with the query stream's rows at the places of their targets among zeros."""
    return jnp.concatenate([x[:, :length], jnp.einsum("bmd,bml->bld", x[:, length:], mapping)], 1)
