"""Tiny models for the tests of this folder."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.models.interface import Inputs
from tests import tiny

VOCAB = tiny.VOCABULARY.size
PAD, BOS, EOS, MASK = tiny.VOCABULARY.pad, tiny.VOCABULARY.bos, tiny.VOCABULARY.eos, tiny.VOCABULARY.mask
RECIPES = {
    "gpt2": ("gpt2", {}),
    "llama": ("llama", {}),
    "t5 1.0": ("t5", {"version": "1.0"}),
    "t5 1.1": ("t5", {"version": "1.1"}),
    "transformer": ("transformer", {}),
    "bert": ("bert", {}),
}


@functools.cache
def model(recipe="gpt2", scan="never", dtype="float32"):
    """A module, its parameters and their logical axes."""
    preset, options = RECIPES[recipe]
    over = {**tiny.everywhere(preset, scan=scan), "dtype": dtype}
    tokens = jnp.zeros((1, 4), jnp.int32)
    inputs = Inputs(tokens=tokens, source=Inputs(tokens=tokens) if "decoder" in tiny.stacks(preset) else None)
    module, params = tiny.build(tiny.config(preset, over=over, **options), inputs)
    # With larger embeddings, a tied read-out only repeats the last token, above all after a final norm.
    gain = 0.01 if recipe == "transformer" else 0.2
    params["token"] = {"embedding": params["token"]["embedding"] * gain}
    is_boxed = lambda leaf: isinstance(leaf, nn.Partitioned)
    return module, params, jax.tree.map(lambda leaf: leaf.names, tiny.boxed(module, inputs), is_leaf=is_boxed)
