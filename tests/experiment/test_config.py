"""Recipes without a model take that of a run; settings replace each other; earlier configurations get later ones."""

import json

import pytest
from ml_collections import ConfigDict

from lm_jax import experiment, flags
from lm_jax.core.config import InputError
from lm_jax.experiment.config import saved_labels
from lm_jax.models.presets import PRESETS


def write(folder, recipe):
    folder.mkdir()
    config = experiment.parse(experiment.complete(ConfigDict(recipe)))
    (folder / "config.json").write_text(json.dumps(experiment.as_json(config)))
    return config


@pytest.fixture
def parent(tmp_path):
    """A run of ELECTRA with its generator, conventions and a tokenizer that was extended and loaded from a path."""
    tokenizer = {"path": "gone", "add": ("<old>",), "anew": True, "lowercase": True}
    recipe = {
        "model": PRESETS["electra"].build("tiny"),
        "models": {"generator": PRESETS["electra_generator"].build("tiny")},
        "objective": {"name": "replaced"},
        "conventions": {"prefix": (2,), "between": (3, 3)},
        "data": {"length": 64, "batch": 8, "tokenizer": tokenizer},
    }
    write(tmp_path / "parent", recipe)
    return tmp_path / "parent"


CLASSIFY = {"objective": {"name": "classify"}, "data": {"columns": {"text": {}, "label": {"kind": "label"}}}}


def adopted(recipe, fork=None, workdir=None, overrides=()):
    return experiment.parse(
        flags.configure(ConfigDict(recipe), overrides, fork and str(fork), workdir and str(workdir))[0]
    )


def test_a_recipe_takes_the_model_and_its_surroundings_but_not_the_data(parent):
    config, before = adopted(CLASSIFY, parent), experiment.parse(experiment.saved(parent))
    assert (config.model, config.conventions) == (before.model, before.conventions)
    # A classifier has no generator.
    assert not config.models and config.data.length == 128
    tokenizer = config.data.tokenizer
    assert (tokenizer.path, tokenizer.add, tokenizer.anew, tokenizer.lowercase) == ("", (), False, True)
    both = adopted({"objective": {"name": "replaced"}}, parent)
    assert both.models == before.models


def test_the_recipe_and_overrides_apply_on_top(parent):
    data = {**CLASSIFY["data"], "tokenizer": {"add": ("<e1>",)}}
    recipe = {**CLASSIFY, "data": data, "conventions": {"between": (9,)}}
    words = ["--config.model.stack.block.dropout=0.3", "--config.data.tokenizer.add=<e1>,<e2>"]
    config = adopted(recipe, parent, overrides=words)
    assert config.conventions.prefix == (2,) and config.conventions.between == (9,)
    assert config.data.tokenizer.add == ("<e1>", "<e2>") and config.model.stack.block.dropout == 0.3


def test_without_the_fork_the_run_itself_supplies_the_model(parent, tmp_path):
    gone = tmp_path / "gone"
    child = adopted(CLASSIFY, parent, overrides=["--config.data.tokenizer.add=<e1>"])
    for workdir in (tmp_path / "child", tmp_path / "seeds" / "seed-3"):
        workdir.mkdir(parents=True)
        (workdir / "config.json").write_text(json.dumps(experiment.as_json(child)))
    for workdir in (tmp_path / "child", tmp_path / "seeds"):
        assert adopted(CLASSIFY, gone, workdir) == adopted(CLASSIFY, None, workdir) == child
    with pytest.raises(InputError, match=f"--fork={gone} holds no run"):
        adopted(CLASSIFY, gone, tmp_path / "new")
    with pytest.raises(InputError, match="sets no config.model; .* with --fork=RUN"):
        adopted(CLASSIFY)


def test_a_recipe_with_a_model_keeps_it(parent):
    recipe = {"model": PRESETS["gpt2"].build("tiny")}
    assert adopted(recipe, parent).model == adopted(recipe).model


def test_a_setting_on_the_command_line_switches_off_what_would_replace_it():
    recipe = {"model": PRESETS["gpt2"].build("tiny"), "train": {"epochs": 3}, "evaluate": {"per_epoch": 1}}
    _, changed = flags.configure(ConfigDict(recipe), ["--config.train.steps=10", "--config.evaluate.every=5"])
    assert {line.partition(":")[0] for line in changed} == {
        *("config.train.steps", "config.train.epochs", "config.evaluate.every", "config.evaluate.per_epoch")
    }
    # Not if that is off, too.
    words = ["--config.train.steps=10", "--config.train.epochs=0"]
    assert adopted(recipe, overrides=words).train.steps == 10
    with pytest.raises(InputError, match="--config.data.validation has no effect, because --config.data.dev is a.tsv"):
        adopted(recipe, overrides=["--config.data.validation=9", "--config.data.dev=a.tsv"])


def test_tuples_of_a_configuration_read_from_json_can_be_overridden(parent):
    tree = experiment.complete(ConfigDict(experiment.saved(parent)))
    changed = flags.override(tree, ["--config.log.writers=jsonl", "--config.optimizer.no_decay=bias$,scale$"])
    config = experiment.parse(changed)
    assert config.log.writers == ("jsonl",) and config.optimizer.no_decay == ("bias$", "scale$")


def test_entries_of_a_saved_configuration_get_the_defaults_of_later_settings():
    data = {"columns": {"text": {"field": "body"}, "label": {"kind": "label", "names": ("a", "b")}}}
    parts = {"a": {"name": "causal"}, "b": {"name": "prefix"}}
    recipe = {"model": PRESETS["gpt2"].build("tiny"), "data": data, "objective": {"mixture": {"parts": parts}}}
    config = experiment.parse(experiment.complete(ConfigDict(recipe)))
    saved = experiment.as_json(config)
    for tree in (saved["data"]["columns"]["text"], saved["objective"]["mixture"]["parts"]["b"]):
        del tree["template" if "template" in tree else "prefix"]

    assert experiment.parse(saved) == config


def test_names_of_labels_are_read_back_and_damaged_ones_are_reported(tmp_path):
    assert saved_labels(tmp_path) == {}
    (tmp_path / "labels.json").write_text('{"label": ["bad", "good"]}')
    assert saved_labels(tmp_path) == {"label": ("bad", "good")}
    for damage in ("", "[1]", '{"label": 2}'):
        (tmp_path / "labels.json").write_text(damage)
        with pytest.raises(InputError, match="labels.json is damaged or unreadable .*; restore it"):
            saved_labels(tmp_path)
