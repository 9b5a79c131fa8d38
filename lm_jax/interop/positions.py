"""Aligns the position table with the padding token: RoBERTa's position 0 is the row after the padding token's id."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from lm_jax.interop.huggingface import family_of
from lm_jax.models.config import ModelConfig


def align(tree: Mapping[str, Any], config: ModelConfig, params: Any) -> tuple[dict[str, Any], ModelConfig, Any]:
    """Moves position 0 to the row that the padding token of config.json requires.

    The model never reads the rows before position 0, so they are removed, or added as zeros, and the changed model
    computes the same function. `tree` is config.json with the ids of the tokenizer.
    """
    tree, embed = dict(tree), config.embed
    if family_of(tree).position_tokens != "real" or tree["pad_token_id"] + 1 == embed.offset:
        return tree, config, params
    offset = tree["pad_token_id"] + 1
    table = params["embed"]["position"]
    rows = jnp.zeros((offset, table.shape[1]), table.dtype)
    moved = jnp.concatenate([rows, table[embed.offset :]])
    tree["max_position_embeddings"] = embed.max_length + offset
    config = dataclasses.replace(config, embed=dataclasses.replace(embed, offset=offset))
    return tree, config, {**params, "embed": {**params["embed"], "position": moved}}
