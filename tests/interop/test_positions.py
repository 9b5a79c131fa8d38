"""Position tables whose first position is the row after the padding token's id."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lm_jax.interop import choice, huggingface, positions
from lm_jax.models import transformer
from lm_jax.models.interface import Inputs


@pytest.mark.parametrize("pad", (0, 1, 5))
def test_roberta_computes_the_same_with_any_padding_token(pad, tmp_path):
    config, inputs = tiny.config("roberta"), Inputs(tokens=jnp.arange(7, 19)[None])
    model, params = tiny.build(config, inputs)
    tree = {**choice.tree_for(config), "pad_token_id": pad}
    tree, moved, aligned = positions.align(tree, config, params)
    assert (moved.embed.offset, tree["max_position_embeddings"]) == (pad + 1, config.embed.max_length + pad + 1)
    huggingface.save(tmp_path, tree, moved, aligned)
    module, loaded = huggingface.load(tmp_path)
    assert choice.function_of(module.config) == choice.function_of(moved)
    expected = model.apply({"params": params}, inputs, logits=True).logits
    for other, parameters in ((transformer.build_transformer(moved), aligned), (module, loaded)):
        logits = other.apply({"params": parameters}, inputs, logits=True).logits
        np.testing.assert_array_equal(np.asarray(logits), np.asarray(expected))


def test_positions_of_other_families_do_not_move():
    config = tiny.config("bart")
    tree = {**choice.tree_for(config), "pad_token_id": 0}
    assert positions.align(tree, config, {}) == (tree, config, {})
