"""A preset is the same function as what the table of its family makes of the family's own configuration."""

import dataclasses
import json
from pathlib import Path

import pytest

from lm_jax.core.config import Tree, from_config_dict
from lm_jax.interop.huggingface import family_of, function_of
from lm_jax.interop.settings import Settings
from lm_jax.models.config import KINDS
from lm_jax.models.presets import PRESETS

REFERENCE = json.loads((Path(__file__).parents[1] / "golden" / "presets.json").read_text())
CASES = [(preset, size) for preset, held in REFERENCE.items() for size in held["configs"]]
# What config.json does not say: heads that are there, readouts and biases that are the model's own.
TENSORS = {
    "bert": ("cls.seq_relationship.weight",),
    "albert": ("sop_classifier.classifier.weight",),
    "marian": ("final_logits_bias",),
    **{family: ("lm_head.weight",) for family in ("t5", "mt5", "umt5")},
}


def function(config):
    """A configuration without what does not change its function; kinds of layers are spelled out layer by layer."""
    layers = []
    for name in ("encoder", "decoder") if config.kind == "encoder_decoder" else ("stack",):
        stack = getattr(config, name)
        names = stack.pattern or ("block",)
        layers += [stack.kind(names[at % len(names)]) for at in range(stack.depth)]
        config = dataclasses.replace(config, **{name: dataclasses.replace(stack, kinds=Tree(), pattern=())})
    return function_of(config), [function_of(layer, config.embed.width) for layer in layers]


@pytest.mark.parametrize(("preset", "size"), CASES)
def test_a_preset_is_what_its_family_is_read_as(preset, size):
    tree = PRESETS[preset].build(size)
    tree.embed.vocab = PRESETS[preset].vocabulary(size)
    theirs = REFERENCE[preset]["configs"][size]
    family = family_of(theirs)
    read = family.config(Settings(theirs, TENSORS.get(preset, ()), "config.json", family.heads))
    assert function(from_config_dict(KINDS[tree.kind], tree)) == function(read)
