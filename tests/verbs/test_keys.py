"""Completion offers the keys that the command line accepts."""

import pytest
import workdirs
from ml_collections import ConfigDict

from lm_jax import experiment, flags
from lm_jax.verbs.keys import keys


def leaves(tree, path="config"):
    for name in tree:
        below = f"{path}.{name}"
        yield from leaves(tree[name], below) if isinstance(tree[name], ConfigDict) else [below]


@pytest.mark.parametrize("recipe", sorted(file.stem for file in flags.recipe_folder().glob("*.py")))
def test_keys_read_from_the_source_are_those_of_the_complete_configuration(recipe, tmp_path):
    config = experiment.adopt(flags.load_recipe(recipe), str(workdirs.configure(tmp_path)), None)
    assert sorted(keys(config)) == sorted(leaves(experiment.complete(config)))


def test_a_saved_configuration_has_the_same_keys():
    config = experiment.complete(flags.load_recipe("t5:tiny"))
    saved = experiment.as_json(experiment.parse(config))
    # A saved configuration has null for an unset subtree, and may have a subtree that the recipe leaves unset.
    assert set(leaves(config)) <= set(keys(saved))
