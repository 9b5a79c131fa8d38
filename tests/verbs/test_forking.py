"""A forked run keeps the tokenizer of its parameters, unless its embedding tables are initialised anew."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from lm_jax import experiment
from lm_jax.core.config import InputError
from lm_jax.data import tokenizers
from lm_jax.data.tokenizers import TokenizerConfig
from lm_jax.models.task import TaskHeadConfig
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.verbs import forking
from lm_jax.verbs.runs import restore_params
from tests.commands import GOLDEN, lm_jax


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """An imported run with a vocabulary of 512."""
    folder = tmp_path_factory.mktemp("parent")
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / "huggingface_gpt2" / name, checkpoint)
    tokenizers.load(GOLDEN / "tokenizer").save(checkpoint)
    assert lm_jax("import", checkpoint, f"--workdir={folder / 'run'}") == 0
    return folder / "run"


def child(parent, **settings):
    """Returns the experiment of a fork with other tokenizer settings."""
    exp = experiment.load(parent)
    config = dataclasses.replace(exp.config.data.tokenizer, path="", **settings)
    data = dataclasses.replace(exp.config.data, tokenizer=config, batch=8)
    tokenizer = forking.tokenizer(config, parent) or tokenizers.load(GOLDEN / "tokenizer")
    return experiment.Experiment(dataclasses.replace(exp.config, data=data), tokenizer)


def tables(params):
    return np.asarray(params["model"]["token"]["embedding"])


def test_a_fork_has_the_tokenizer_of_its_parent(parent):
    expected = tokenizers.load(parent / "tokenizer")
    inherited = forking.tokenizer(TokenizerConfig(kind="bytes"), parent)
    assert inherited is not None and inherited.fingerprint == expected.fingerprint
    same = TokenizerConfig(path=str(GOLDEN / "tokenizer"))
    assert forking.tokenizer(same, parent).fingerprint == expected.fingerprint


def test_another_tokenizer_is_refused_unless_tables_are_initialised_anew(parent, tmp_path):
    tokenizers.train(TokenizerConfig(kind="bytes"), ()).save(tmp_path)
    with pytest.raises(InputError, match="config.data.tokenizer.anew=true"):
        forking.tokenizer(TokenizerConfig(path=str(tmp_path)), parent)
    assert forking.tokenizer(TokenizerConfig(path=str(tmp_path), anew=True), parent) is None


def restored(parent):
    return restore_params(Checkpointer(parent / "checkpoints"), experiment.load(parent).params_like("model"))


def test_added_tokens_get_rows_around_the_mean_of_the_old_rows(parent):
    exp = child(parent, add=("<|user|>", "harbour"))
    old = tables(restored(parent))
    new = tables(forking.parameters(exp, parent))
    assert new.shape[0] == old.shape[0] + 2 == exp.tokenizer.vocab_size
    np.testing.assert_array_equal(new[: len(old)], old)
    deviations = np.abs(new[len(old) :] - old.mean(0)) / old.std(0)
    assert 0 < deviations.max() < 6 * forking.SPREAD
    assert not np.array_equal(new[-1], new[-2])


def test_without_added_tokens_no_parameter_changes(parent):
    exp = child(parent)
    old = restored(parent)
    jax.tree.map(np.testing.assert_array_equal, forking.parameters(exp, parent), old)


def test_the_head_of_a_task_is_new_unless_it_fits(parent, tmp_path, capsys):
    exp = child(parent)
    headed = lambda classes: dataclasses.replace(
        exp, config=dataclasses.replace(exp.config, model=dataclasses.replace(exp.config.model, task=head(classes)))
    )
    head = lambda classes: TaskHeadConfig(classes=classes)
    new = forking.parameters(headed(3), parent)["model"]["task"]["out"]
    assert new["kernel"].shape[1] == 3 and "new head   task/out/bias, task/out/kernel" in capsys.readouterr().out
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        checkpointer.save(0, {"params": headed(3).fresh_state().params}, {})
    shutil.copy(parent / "config.json", tmp_path)
    kept = forking.parameters(headed(3), tmp_path)["model"]["task"]["out"]
    np.testing.assert_array_equal(np.asarray(kept["kernel"]), np.asarray(new["kernel"]))
    assert "new head" not in capsys.readouterr().out
    assert forking.parameters(headed(2), tmp_path)["model"]["task"]["out"]["kernel"].shape[1] == 2
    assert "task" not in forking.parameters(exp, tmp_path)["model"]


def test_anew_initialises_the_tables_and_keeps_the_rest(parent):
    exp = child(parent, anew=True)
    old = restored(parent)
    new = forking.parameters(exp, parent)
    assert not np.array_equal(tables(new), tables(old))
    np.testing.assert_array_equal(
        np.asarray(new["model"]["final_norm"]["scale"]), np.asarray(old["model"]["final_norm"]["scale"])
    )
