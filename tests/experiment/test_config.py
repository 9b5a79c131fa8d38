"""Configurations are complete, and those of earlier versions get the defaults of later settings."""

from ml_collections import ConfigDict

from lm_jax import experiment
from lm_jax.models.presets import PRESETS


def test_entries_of_a_saved_configuration_get_the_defaults_of_later_settings():
    data = {"columns": {"text": {"field": "body"}, "label": {"kind": "label", "names": ("a", "b")}}}
    parts = {"a": {"name": "causal"}, "b": {"name": "prefix"}}
    recipe = {"model": PRESETS["gpt2"].build("tiny"), "data": data, "objective": {"mixture": {"parts": parts}}}
    config = experiment.parse(experiment.complete(ConfigDict(recipe)))
    saved = experiment.as_json(config)
    for tree in (saved["data"]["columns"]["text"], saved["objective"]["mixture"]["parts"]["b"]):
        del tree["template" if "template" in tree else "prefix"]

    assert experiment.parse(saved) == config
