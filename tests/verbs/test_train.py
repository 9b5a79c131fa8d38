"""Fine-tuning: the model of `--fork`, epochs, dev files, the best checkpoint, early stopping, seeds."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tuning

from lm_jax import experiment
from lm_jax.train import metrics
from lm_jax.train.checkpoint import Checkpointer
from tests.commands import lm_jax


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    tuning.write(folder)
    return folder


@pytest.fixture(scope="module")
def train(folder):
    def start(workdir, *words, fork=folder / "parent"):
        return lm_jax("train", f"--config={folder / 'recipe.py'}", f"--fork={fork}", f"--workdir={workdir}", *words)

    return start


@pytest.fixture(scope="module")
def finished(train, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    assert train(workdir) == 0
    return workdir


@pytest.fixture
def run(finished, tmp_path):
    """A finished run that a test may change."""
    return shutil.copytree(finished, tmp_path / "run")


def config_of(workdir):
    return json.loads((workdir / "config.json").read_text())


def error(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.endswith(" ...")]
    assert len(lines) == 1, lines
    return lines[0]


def validated(workdir):
    return {entry["step"]: entry["val/accuracy"] for entry in metrics.read(workdir) if "val/accuracy" in entry}


def test_a_run_of_epochs_is_evaluated_after_each_and_resumes_without_a_change(run, train, capsys):
    # 36 rows in batches of 8: the first epoch ends in step 5, the second with step 9.
    assert config_of(run)["train"]["steps"] == 9 and list(validated(run)) == [5, 9]
    assert train(run) == 0
    assert "is at step 9 of 9; raise config.train.epochs to resume" in capsys.readouterr().out
    assert "history" not in config_of(run)
    assert train(run, "--config.train.epochs=3") == 0
    output = capsys.readouterr().out
    assert "3 epochs: 14 steps of 8 rows" in output and "resuming from step 9" in output
    assert list(validated(run)) == [5, 9, 14]
    assert config_of(run)["history"][0]["changes"] == ["config.train.epochs: 2.0 -> 3.0"]


@pytest.mark.slow
def test_dev_files_are_evaluated_and_belong_to_the_run(run, train, folder, tmp_path, capsys):
    assert lm_jax("evaluate", f"--workdir={run}", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["rows"], report["path"]) == (tuning.DEV, str(folder / "dev.jsonl"))
    assert report["accuracy"] == max(validated(run).values())
    assert lm_jax("evaluate", f"--workdir={run}", f"--config.data.path={folder / 'other.jsonl'}", "--json") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 3
    assert train(run, f"--config.data.dev={folder / 'other.jsonl'}", "--config.train.epochs=3") == 2
    assert f"or of {folder / 'other.jsonl'} is not the one that" in error(capsys)
    assert train(tmp_path / "new", "--config.data.validation=5", "--config.train.epochs=0.1") == 0
    assert "31 for training, 5 for validation" in capsys.readouterr().out


def test_another_text_has_the_labels_of_the_run(run, tmp_path, capsys):
    def evaluate(labels, *words):
        rows = [{"text": f"The lantern {number}.", "label": label} for number, label in enumerate(labels)]
        (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        path = f"--config.data.path={tmp_path / 'more.jsonl'}"
        return lm_jax("evaluate", f"--workdir={run}", path, "--json", *words)

    # The order of the labels in the text does not matter, and it need not have all of them.
    accuracies = []
    for label in "ba":
        assert evaluate(label * 4) == 0
        accuracies.append(json.loads(capsys.readouterr().out)["accuracy"])
    assert sum(accuracies) == pytest.approx(1)
    assert evaluate("abc") == 2
    assert "more.jsonl line 3: field 'label' has 'c'; expected one of 'b', 'a'; " in error(capsys)
    assert evaluate("abc", "--config.data.bad_rows=skip") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 2
    assert evaluate("ab", "--config.data.columns.label.names=b,a") == 2
    assert "columns.label.names is ('b', 'a'), but the other corpus has ('a', 'b'); leave it out" in error(capsys)


def test_the_model_comes_from_the_fork_and_later_from_the_run(run, train, folder, tmp_path, capsys):
    parent, child = config_of(folder / "parent"), config_of(run)
    assert child["model"] == parent["model"] and child["conventions"] == parent["conventions"]
    assert child["data"]["length"] == 16 != parent["data"]["length"]
    # The same command after the fork was deleted.
    missing = tmp_path / "deleted"
    assert train(run, "--config.train.epochs=2.5", fork=missing) == 0
    assert config_of(run)["history"][0]["changes"] == ["config.train.epochs: 2.0 -> 2.5"]
    capsys.readouterr()
    assert train(tmp_path / "new", fork=missing) == 2
    assert f"--fork={missing} holds no run" in error(capsys)
    assert lm_jax("train", f"--config={folder / 'recipe.py'}", f"--workdir={tmp_path / 'new'}") == 2
    assert "sets no config.model; start from a preset" in error(capsys)


def test_overrides_apply_to_the_model_of_the_fork(train, folder, capsys):
    words = (f"--config={folder / 'recipe.py'}", f"--fork={folder / 'parent'}", "--config.model.embed.dropout=0.25")
    assert lm_jax("inspect", *words, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    expected = config_of(folder / "parent")["model"]
    assert report["config"]["model"]["embed"].pop("dropout") == 0.25 != expected["embed"].pop("dropout")
    assert report["config"]["model"]["embed"] == expected["embed"]
    assert lm_jax("inspect", *words, "--batch=0", "--rows=1") == 0
    assert "[CLS]" in capsys.readouterr().out
    assert lm_jax("inspect", f"--fork={folder / 'parent'}") == 2
    assert "add --config=RECIPE" in error(capsys)


@pytest.mark.slow
def test_only_matching_parameters_are_trained(train, tmp_path, capsys):
    workdir = tmp_path / "run"
    assert train(workdir, "--config.train.only=^task/,embed/norm", "--config.train.steps=2") == 0
    output = capsys.readouterr().out
    assert "trained    " in output and "those that match ^task/, embed/norm" in output
    saved = Checkpointer(workdir / "checkpoints").describe(2)
    trained = {path.partition("model/")[2] for path in saved if path.startswith("params/")}
    assert trained and all(path.startswith(("task/", "embed/norm/")) for path in trained)
    moments = [path for path in saved if path.startswith("opt_state/") and "/model/" in path]
    assert {path.partition("/model/")[2] for path in moments} == trained
    exp = experiment.load(workdir)
    assert lm_jax("evaluate", f"--workdir={workdir}") == 0 and exp.config.train.epochs == 0
    head = dataclasses.replace(exp.config, train=dataclasses.replace(exp.config.train, only=("^task/",)))
    assert exp.models.trains_layers("model") and not dataclasses.replace(exp, config=head).models.trains_layers("model")


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_paths(train, tmp_path, capsys):
    assert train(tmp_path / "run", "--config.train.only=^tsk/out") == 2
    assert "config.train.only has '^tsk/out', which matches no parameter; the nearest are task/" in error(capsys)
    assert train(tmp_path / "run", "--config.train.only=task(") == 2
    assert "is not a regular expression" in error(capsys)
    assert not (tmp_path / "run").exists()


def test_a_metric_that_does_not_exist_is_refused_before_training(train, tmp_path, capsys):
    assert train(tmp_path / "run", "--config.evaluate.best=acuracy") == 2
    assert "config.evaluate.best is 'acuracy'; expected one of loss, accuracy, macro_f1; did you mean" in error(capsys)
    assert not (tmp_path / "run").exists()


def test_settings_that_replace_each_other_are_not_given_together(train, tmp_path, capsys):
    assert train(tmp_path / "run", "--config.train.steps=2", "--config.train.epochs=1") == 2
    assert "--config.train.steps has no effect, because --config.train.epochs is 1" in error(capsys)


@pytest.mark.slow
def test_a_run_that_does_not_improve_stops_early_and_again_after_a_kill(train, tmp_path, capsys):
    workdir = tmp_path / "run"
    words = ("--config.evaluate.patience=2", "--config.train.epochs=9")
    assert train(workdir, *words) == 0
    reason = "val/accuracy has not improved for 2 evaluations (best"
    assert f"stopped after step 14: {reason}" in capsys.readouterr().out
    before = validated(workdir)
    assert list(before) == [5, 9, 14]
    assert Checkpointer(workdir / "checkpoints").steps() == [5, 14]
    mark = json.loads((workdir / "checkpoints" / "best.json").read_text())
    assert mark == {"step": 5, "value": before[5], "metric": "accuracy"}
    assert train(workdir, *words) == 0
    assert f"{workdir} stopped after step 14: {reason}" in capsys.readouterr().out
    # As if it had been killed after the last evaluation, before its checkpoint.
    shutil.rmtree(workdir / "checkpoints" / "14")
    assert train(workdir, *words) == 0
    assert "resuming from step 5" in capsys.readouterr().out
    assert validated(workdir) == before and Checkpointer(workdir / "checkpoints").steps() == [5, 14]
    assert train(workdir, "--config.evaluate.patience=3", words[1]) == 0
    assert "stopped after step 18" in capsys.readouterr().out


@pytest.mark.slow
def test_seeds_are_trained_one_after_the_other_and_compared(train, tmp_path, capsys):
    words = ("--config.train.seeds=0,4", "--config.train.epochs=1")
    assert train(tmp_path, *words) == 0
    output = capsys.readouterr().out
    summary = json.loads((tmp_path / "seeds.json").read_text())
    losses = [summary["seeds"][seed]["final"]["loss"] for seed in ("0", "4")]
    assert [config_of(tmp_path / f"seed-{seed}")["seed"] for seed in (0, 4)] == [0, 4] and losses[0] != losses[1]
    assert summary["mean"]["final"]["loss"] == pytest.approx(np.mean(losses))
    assert summary["deviation"]["final"]["loss"] == pytest.approx(np.std(losses, ddof=1))
    assert "config.seed: 0 -> 4" in output and "best accuracy" in output
    assert train(tmp_path, *words, "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == summary and captured.err.count("is at step 5 of 5") == 2
    assert train(tmp_path / "seed-0", "--config.train.seeds=0,4") == 2
    assert "holds a run" in error(capsys)
