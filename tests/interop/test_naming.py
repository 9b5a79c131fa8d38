"""Prefixes that a trainer puts before all tensor names are removed."""

from pathlib import Path

import numpy as np
import pytest

from lm_jax.interop import naming
from lm_jax.interop.safetensors import Entry
from lm_jax.interop.tables import TABLES

NOTHING = Entry(Path(), np.dtype(np.float32), (), 0)


def names(family, *stored):
    entries, removed = naming.unwrap(dict.fromkeys(stored, NOTHING), TABLES[family])
    return list(entries), removed


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module."])
def test_wrappers_are_removed(wrapper):
    inside = ["transformer.wte.weight", "lm_head.weight"]
    assert names("gpt2", *(wrapper + name for name in inside)) == (inside, wrapper)


def test_the_prefix_of_a_family_is_not_a_wrapper():
    alone = ["model.embed_tokens.weight", "model.norm.weight"]
    assert names("llama", *alone) == (alone, "")
    assert names("llama", *(f"model.{name}" for name in alone)) == (alone, "model.")
    assert names("gpt2", "module.wte.weight", "lm_head.weight")[1] == ""
