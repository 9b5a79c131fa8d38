"""Names of tensors without what a trainer puts before all of them."""

from pathlib import Path

import numpy as np
import pytest

from lm_jax.interop import naming
from lm_jax.interop.safetensors import Entry
from lm_jax.interop.tables import TABLES

NOTHING = Entry(Path(), np.dtype(np.float32), (), 0)


def names(family, *stored):
    found, wrapper = naming.unwrapped(dict.fromkeys(stored, NOTHING), TABLES[family])
    return list(found), wrapper


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module."])
def test_wrappers_are_left_out(wrapper):
    inside = ["transformer.wte.weight", "lm_head.weight"]
    assert names("gpt2", *(wrapper + name for name in inside)) == (inside, wrapper)


def test_a_part_of_the_model_is_no_wrapper():
    alone = ["model.embed_tokens.weight", "model.norm.weight"]
    assert names("llama", *alone) == (alone, "")
    assert names("llama", *(f"model.{name}" for name in alone)) == (alone, "model.")
    assert names("gpt2", "module.wte.weight", "lm_head.weight")[1] == ""
