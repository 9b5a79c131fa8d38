"""A preset and the configuration of its family in transformers, read by the family's table, are the same function."""

import dataclasses
import json
from pathlib import Path

import pytest

from lm_jax.core.config import Tree, from_config_dict
from lm_jax.interop.choice import function_of
from lm_jax.interop.huggingface import family_of
from lm_jax.interop.settings import Settings
from lm_jax.models.config import KINDS
from lm_jax.models.presets import PRESETS

REFERENCE = json.loads((Path(__file__).parents[1] / "golden" / "presets.json").read_text())
CASES = [(preset, size) for preset, reference in REFERENCE.items() for size in reference["configs"]]
# Tensors that tables look for, because config.json does not mention these heads, untied readouts and biases.
TENSORS = {
    "bert": ("cls.seq_relationship.weight",),
    "albert": ("sop_classifier.classifier.weight",),
    "marian": ("final_logits_bias",),
    **{family: ("lm_head.weight",) for family in ("t5", "mt5", "umt5")},
}


def function(config):
    """The settings of a configuration, and of each layer, that change its function."""
    layers = []
    for name in ("encoder", "decoder") if config.kind == "encoder_decoder" else ("stack",):
        stack = getattr(config, name)
        names = stack.pattern or ("block",)
        layers += [stack.kind(names[at % len(names)]) for at in range(stack.depth)]
        config = dataclasses.replace(config, **{name: dataclasses.replace(stack, kinds=Tree(), pattern=())})
    return function_of(config), [function_of(layer, config.embed.width) for layer in layers]


@pytest.mark.parametrize(("preset", "size"), CASES)
def test_a_preset_equals_its_familys_configuration(preset, size):
    tree = PRESETS[preset].build(size)
    tree.embed.vocab = PRESETS[preset].vocabulary(size)
    theirs = REFERENCE[preset]["configs"][size]
    family = family_of(theirs)
    read = family.config(Settings(theirs, TENSORS.get(preset, ()), "config.json", family.heads))
    assert function(from_config_dict(KINDS[tree.kind], tree)) == function(read)
