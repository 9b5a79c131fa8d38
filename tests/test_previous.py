"""A run of an earlier version can be continued from its checkpoint, with the store of its text."""

import json
import shutil
import tarfile

import pytest

from lm_jax import experiment
from lm_jax.train.checkpoint import Checkpointer
from tests.commands import GOLDEN


def test_a_run_of_an_earlier_version_continues_with_its_store(tmp_path, monkeypatch):
    with tarfile.open(GOLDEN / "previous.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    shutil.copy(GOLDEN / "text.txt", tmp_path)
    shutil.copytree(GOLDEN / "tokenizer", tmp_path / "tokenizer")
    monkeypatch.chdir(tmp_path)
    before = sorted(path for path in (tmp_path / "store").rglob("*"))

    exp = experiment.prepare(experiment.load("run").config)
    checkpointer = Checkpointer(tmp_path / "run" / "checkpoints")
    state, _ = checkpointer.restore(exp.state_like)

    assert sorted(path for path in (tmp_path / "store").rglob("*")) == before, "the store does not change"
    extra = checkpointer.extra()
    assert extra["data_fingerprint"] == exp.tokens.fingerprint
    assert extra["tokenizer_fingerprint"] == exp.tokenizer.fingerprint
    assert int(state.step) == 2
    # Tolerance: the losses are summed over eight devices; the earlier run had one.
    best = json.loads((tmp_path / "run" / "checkpoints" / "best.json").read_text())
    assert dict(exp.validation().run(state.weights))["loss"] == pytest.approx(best["value"], rel=1e-5)
