"""Names of outputs where one layer of the reference is several of ours."""

import jax
import jax.numpy as jnp
import tiny

from lm_jax.interop import huggingface, outputs
from lm_jax.interop.tables import albert
from lm_jax.models.interface import Shown


def test_an_albert_layer_has_its_own_hidden_state_and_those_of_its_inner_layers():
    config = tiny.config("albert", over={"stack.depth": 4, "stack.share.groups": 1, "stack.share.layers": 2})
    module, shapes, axes = huggingface.describe(config)
    inputs = {"input_ids": jnp.arange(8).reshape(2, 4)}
    unused = {"head": None, "tree": {}, "rules": [], "entries": {}, "aliases": {}, "axes": axes}
    checkpoint = huggingface.Checkpoint(
        family=albert.FAMILY, architecture="AlbertModel", config=config, module=module, shapes=shapes, **unused
    )
    names = set(jax.eval_shape(lambda params: outputs.trace(checkpoint, params, inputs), shapes))
    layers = outputs._layers(Shown(hidden=tuple("eabcd"), attention=tuple("wxyz")), "", 2)
    assert names == {"last", *layers}
    assert [layers[f"hidden_states/{index}"] for index in range(3)] == ["e", "b", "d"]
    assert [layers[f"inner_hidden_states/{index}"] for index in range(4)] == ["a", "b", "c", "d"]
    assert [layers[f"attentions/{index}"] for index in range(4)] == ["w", "x", "y", "z"]
