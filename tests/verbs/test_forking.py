"""A forked run keeps the tokenizer that its parameters know, unless the tables of tokens are drawn anew."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from lm_jax import experiment
from lm_jax.core.config import InputError
from lm_jax.data import tokenizers
from lm_jax.data.tokenizers import TokenizerConfig
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.verbs import forking
from lm_jax.verbs.runs import restore_params
from tests.commands import GOLDEN, lm_jax


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """A run of 512 pieces, as an import makes it."""
    folder = tmp_path_factory.mktemp("parent")
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / "huggingface_gpt2" / name, checkpoint)
    tokenizers.load(GOLDEN / "tokenizer").save(checkpoint)
    assert lm_jax("import", checkpoint, f"--workdir={folder / 'run'}") == 0
    return folder / "run"


def child(parent, **settings):
    """The experiment of a run that is forked with other settings of its tokenizer."""
    exp = experiment.load(parent)
    config = dataclasses.replace(exp.config.data.tokenizer, path="", **settings)
    data = dataclasses.replace(exp.config.data, tokenizer=config, batch=8)
    given = forking.tokenizer(config, parent) or tokenizers.load(GOLDEN / "tokenizer")
    return experiment.Experiment(dataclasses.replace(exp.config, data=data), given)


def tables(params):
    return np.asarray(params["model"]["token"]["embedding"])


def test_the_parents_tokenizer_is_taken(parent):
    own = tokenizers.load(parent / "tokenizer")
    taken = forking.tokenizer(TokenizerConfig(kind="bytes"), parent)
    assert taken is not None and taken.fingerprint == own.fingerprint
    same = TokenizerConfig(path=str(GOLDEN / "tokenizer"))
    assert forking.tokenizer(same, parent).fingerprint == own.fingerprint


def test_another_tokenizer_is_refused_unless_tables_are_drawn_anew(parent, tmp_path):
    tokenizers.train(TokenizerConfig(kind="bytes"), ()).save(tmp_path)
    with pytest.raises(InputError, match="config.data.tokenizer.anew=true"):
        forking.tokenizer(TokenizerConfig(path=str(tmp_path)), parent)
    assert forking.tokenizer(TokenizerConfig(path=str(tmp_path), anew=True), parent) is None


def kept(parent):
    """The parameters of a run."""
    return restore_params(Checkpointer(parent / "checkpoints"), experiment.load(parent).params_like("model"))


def test_added_tokens_get_rows_around_the_mean_of_the_others(parent):
    exp = child(parent, add=("<|user|>", "harbour"))
    old = tables(kept(parent))
    new = tables(forking.parameters(exp, parent))
    assert new.shape[0] == old.shape[0] + 2 == exp.tokenizer.vocab_size
    np.testing.assert_array_equal(new[: len(old)], old)
    apart = np.abs(new[len(old) :] - old.mean(0)) / old.std(0)
    assert 0 < apart.max() < 6 * forking.SPREAD
    assert not np.array_equal(new[-1], new[-2])


def test_without_added_tokens_every_parameter_stays(parent):
    exp = child(parent)
    old = kept(parent)
    jax.tree.map(np.testing.assert_array_equal, forking.parameters(exp, parent), old)


def test_anew_draws_the_tables_and_keeps_the_rest(parent):
    exp = child(parent, anew=True)
    old = kept(parent)
    new = forking.parameters(exp, parent)
    assert not np.array_equal(tables(new), tables(old))
    np.testing.assert_array_equal(
        np.asarray(new["model"]["final_norm"]["scale"]), np.asarray(old["model"]["final_norm"]["scale"])
    )
