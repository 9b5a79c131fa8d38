"""Where a family's positions begin: RoBERTa's first position is in the row after the padding token's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from lm_jax.interop.huggingface import family_of
from lm_jax.models.config import ModelConfig


def aligned(tree: Mapping[str, Any], config: ModelConfig, params: Any) -> tuple[dict[str, Any], ModelConfig, Any]:
    """A model whose position 0 is where the padding token of its config.json puts it.

    Rows before position 0 are those of padding, which the model never reads: they are cut, or added as zeros.

    Args:
      tree: config.json with the ids of the tokenizer.
      config: our configuration.
      params: our parameters.

    Returns:
      The same three, which compute the same.
    """
    tree, embed = dict(tree), config.embed
    if family_of(tree).counted != "real" or tree["pad_token_id"] + 1 == embed.offset:
        return tree, config, params
    offset = tree["pad_token_id"] + 1
    table = params["embed"]["position"]
    rows = jnp.zeros((offset, table.shape[1]), table.dtype)
    moved = jnp.concatenate([rows, table[embed.offset :]])
    tree["max_position_embeddings"] = embed.max_length + offset
    config = dataclasses.replace(config, embed=dataclasses.replace(embed, offset=offset))
    return tree, config, {**params, "embed": {**params["embed"], "position": moved}}
