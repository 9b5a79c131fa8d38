"""Trackers continue a resumed run, and a run survives failures of its trackers."""

import importlib.util
import io
import json
import logging
import sys
import types

import pytest

from lm_jax.core.config import InputError
from lm_jax.train import writers
from lm_jax.train.logging import Logger


class Tracker(types.ModuleType):
    """A fake of wandb and aim that records its calls and fails on request."""

    def __init__(self, name, *, broken_at=None, broken_start=False):
        super().__init__(name)
        self.__spec__ = importlib.util.spec_from_loader(name, None)
        self.starts, self.rows, self.ended, self.settings = [], [], 0, {}
        self.config, self.hash = self, "a1b2"
        self.broken_at, self.broken_start = broken_at, broken_start

    # wandb
    def Settings(self, **settings):  # noqa: N802
        return settings

    def init(self, **options):
        return self.Run(options["id"], **options)

    def update(self, config, allow_val_change):
        self.settings.update(config)

    def define_metric(self, *names, **options):
        pass

    def log(self, row):
        self._record(row)

    def finish(self):
        self.ended += 1

    # aim
    def Run(self, previous, **options):  # noqa: N802
        if self.broken_start:
            raise ConnectionError("no\nnetwork")
        self.starts.append(previous)
        return self

    def __setitem__(self, key, value):
        self.settings[key] = value

    def track(self, value, *, name, step, context):
        self._record((value, name, step, context))

    def close(self):
        self.ended += 1

    def _record(self, row):
        if len(self.rows) == self.broken_at:
            raise BrokenPipeError("the service went away")
        self.rows.append(row)


@pytest.fixture
def tracker(monkeypatch):
    def install(name, **options):
        module = Tracker(name, **options)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return install


def train(workdir, names, *, start=0, steps=3):
    with Logger(workdir, total=10, start=start, names=names, config={"seed": 3}, stream=io.StringIO()) as logger:
        for step in range(start + 1, start + steps + 1):
            logger.write(step, {"train/loss": 1 / step})


def test_wandb_gets_every_step_and_the_configuration(tmp_path, tracker):
    wandb = tracker("wandb")
    train(tmp_path, ["jsonl", "wandb"])
    assert wandb.rows == [{"step": step, "train/loss": 1 / step} for step in (1, 2, 3)]
    assert wandb.settings["seed"] == 3 and wandb.ended == 1


def test_aim_gets_every_step_with_its_subset_of_the_data(tmp_path, tracker):
    aim = tracker("aim")
    train(tmp_path, ["aim"], steps=1)
    assert aim.rows == [(1.0, "loss", 1, {"subset": "train"})]
    assert aim.settings["config"] == {"seed": 3} and aim.ended == 1


def test_a_resumed_run_continues_the_same_run_of_its_tracker(tmp_path, tracker):
    wandb, aim = tracker("wandb"), tracker("aim")
    train(tmp_path, ["wandb", "aim"])
    train(tmp_path, ["wandb", "aim"], start=3)
    train(tmp_path / "other", ["wandb", "aim"])
    first, second, other = wandb.starts
    assert first == second != other
    assert aim.starts == [None, "a1b2", None]


@pytest.mark.parametrize("failure", [{"broken_start": True}, {"broken_at": 1}])
def test_a_failing_tracker_is_reported_once_and_the_run_continues(failure, tmp_path, tracker, caplog):
    tracker("wandb", **failure)
    with caplog.at_level(logging.WARNING):
        train(tmp_path, ["wandb", "jsonl"])
    assert len(caplog.records) == 1
    assert "\n" not in caplog.messages[0] and "the run continues without it" in caplog.messages[0]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_a_missing_library_is_one_line_that_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'lm_jax\[aim\]'"):
        Logger(tmp_path, total=1, names=["aim"])


def test_an_unknown_writer_is_refused_with_the_choices():
    with pytest.raises(InputError, match="jsonl, tensorboard, wandb, aim; did you mean wandb"):
        writers.check(["wandbb"])


def test_every_tracker_has_an_extra(repository):
    import configparser

    setup = configparser.ConfigParser()
    setup.read(repository / "setup.cfg")
    extras = setup["options.extras_require"]
    assert all(library in extras[library] for _, library in writers.WRITERS.values() if library)


def test_the_real_wandb_accepts_a_run_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(tmp_path, ["wandb"])
    name = json.loads((tmp_path / writers.NAMES).read_text())["wandb"]
    train(tmp_path, ["wandb"], start=3)
    assert len(list(tmp_path.glob(f"wandb/offline-run-*-{name}/run-{name}.wandb"))) == 2


def test_the_real_aim_continues_the_same_run(tmp_path, monkeypatch):
    aim = pytest.importorskip("aim")
    monkeypatch.delenv("AIM_REPO", raising=False)
    train(tmp_path / "run", ["aim"])
    train(tmp_path / "run", ["aim"], start=3)
    (name,) = aim.Repo(str(tmp_path)).list_all_runs()
    # Aim shows data that is not indexed yet only in a writable run.
    (loss,) = aim.Run(name, repo=str(tmp_path), system_tracking_interval=None, force_resume=True).metrics()
    assert sorted(loss.values.sparse_numpy()[1]) == sorted(1 / step for step in range(1, 7))
