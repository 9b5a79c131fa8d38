"""The command line on one short run: what it prints and writes, and its exit codes."""

import io
import json
import math
import re
import shutil
import signal
import sys

import pytest

from lm_jax import flags
from lm_jax.train.console import Console
from lm_jax.train.loop import Trainer
from tests.commands import golden_flags, lm_jax


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def train(store):
    def start(workdir, *words):
        return lm_jax(
            "train",
            "--config=gpt:tiny",
            f"--workdir={workdir}",
            "--config.train.steps=6",
            "--config.log.every=2",
            "--config.evaluate.batches=1",
            "--config.checkpoint.every=2",
            "--config.optimizer.schedule.warmup=1",
            *golden_flags(store),
            *words,
        )

    return start


@pytest.fixture(scope="module")
def run(train, tmp_path_factory):
    """A finished run, its standard output, and its messages, which `--json` sends to standard error."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    capture = pytest.MonkeyPatch()
    out, err = io.StringIO(), io.StringIO()
    capture.setattr(sys, "stdout", out)
    capture.setattr(sys, "stderr", err)
    try:
        assert train(workdir, "--json") == 0
    finally:
        capture.undo()
    return workdir, out.getvalue(), err.getvalue()


def test_the_setup_is_printed_once(run):
    _, _, messages = run
    for line in (
        r"^recipe +gpt:tiny, changed:$",
        r"^  config\.train\.steps: 200 -> 6$",
        r"^devices +8 x cpu",
        r"^mesh +data 8 x fsdp 1 x tensor 1: 2 rows of the batch and [\d.]+ MB of parameters per device$",
        r"^parameters [\d,]+, [\d.]+ MB in float32",
        r"^  stack/attention +[\d,]+ +[\d.]+%$",
        r"^data .*: [\d,]+ tokens in [\d,]+ documents",
        r"^step +traced in [\d.]+ s, compiled in [\d.]+ s \(.*cache.*\)$",
        r"^compute .* FLOPs per token; peak",
    ):
        assert len(re.findall(line, messages, re.MULTILINE)) == 1, line


def test_every_log_line_has_the_rates_and_the_objectives_metrics(run):
    workdir, _, messages = run
    lines = [line for line in messages.splitlines() if re.match(r"step \d+/6  loss", line)]
    assert len(lines) == 3
    for line in lines:
        assert all(word in line for word in ("loss ", "lr ", "|g| ", "tokens/s ", "tokens/s/device ", "MFU ", "ETA "))
    entries = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [entry["train/tokens"] for entry in entries if "train/tokens" in entry] == [2048, 4096, 6144]
    assert any("val/loss" in entry for entry in entries)


def test_the_work_directory_has_every_documented_file(run):
    workdir, _, _ = run
    expected = "checkpoints config.json environment.json metrics.jsonl model_info.txt plots tensorboard tokenizer"
    assert {path.name for path in workdir.iterdir()} == set(expected.split())


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("doctor",),
        ("inspect", "--config=bert:tiny"),
        ("inspect", "--workdir=RUN"),
        ("evaluate", "--workdir=RUN"),
        ("generate", "--workdir=RUN", "--max_tokens=4", "--prompt=The", "--prompt=A", "--checkpoint=4"),
        ("data", "--config=gpt:tiny", "GOLDEN"),
        ("tokenizer", "--config=gpt:tiny", "GOLDEN"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_json_is_one_document_and_nothing_else(words, run, store, capsys):
    words = [word.replace("RUN", str(run[0])) for word in words]
    words = [*words[:-1], *golden_flags(store)] if words[-1] == "GOLDEN" else words
    code = lm_jax(*words, "--json")
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    assert code == (bool(document["problems"]) if words[0] == "doctor" else 0)
    if words[0] == "generate":
        assert document["step"] == 4 and [answer["prompt"] for answer in document["answers"]] == ["The", "A"]


def test_the_tokenizer_is_kept_for_train_or_saved_where_the_user_says(store, tmp_path, capsys):
    verb = ["tokenizer", "--config=gpt:tiny", "--config.data.tokenizer.kind=bytes"]
    verb += [flag for flag in golden_flags(store) if "tokenizer" not in flag]
    assert lm_jax(*verb) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith(f"kept for train in {store}; --output=DIR saves a copy")
    assert lm_jax(*verb, f"--output={tmp_path / 'mine'}") == 0
    assert capsys.readouterr().out.splitlines()[0].endswith(f", saved in {tmp_path / 'mine'}")


def test_json_of_training_is_its_last_metrics(run):
    _, out, _ = run
    document = json.loads(out)
    assert document["step"] == 6 and {"train/loss", "val/loss"} <= set(document)


def test_a_missing_checkpoint_is_refused(run, capsys):
    assert lm_jax("generate", f"--workdir={run[0]}", "--checkpoint=99") in (2, 5)
    assert "99" in capsys.readouterr().err


def test_a_fork_starts_a_new_run_from_the_parameters_of_another(run, train, tmp_path, capsys):
    assert train(tmp_path / "fork", f"--fork={run[0]}") == 0
    assert "parameters from" in capsys.readouterr().out
    forked, parent = (
        json.loads((workdir / "metrics.jsonl").read_text().splitlines()[0]) for workdir in (tmp_path / "fork", run[0])
    )
    assert forked["step"] == 2 and forked["train/loss"] < parent["train/loss"]


def test_seed_is_the_seed_of_the_configuration_to_train():
    request = flags.parse("train", ["--config=gpt:tiny", "--seed=5"])
    assert request.config.seed == 5 and request.changed == ("config.seed: 0 -> 5",)


def test_a_loss_that_is_not_finite_ends_with_code_three(train, tmp_path, monkeypatch, capsys):
    # The logged loss is replaced, because a learning rate that diverges would need another compiled program.
    monkeypatch.setattr(Trainer, "_loss", lambda *_: math.inf)
    assert train(tmp_path / "run") == 3
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("lm-jax train: the loss of step ") and "learning_rate" in error


def test_a_signal_ends_with_code_75_and_the_next_run_resumes_there(train, tmp_path, monkeypatch, capsys):
    tick = Console.tick

    def preempt(console, step):
        tick(console, step)
        if step == 3:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Console, "tick", preempt)
    assert train(tmp_path / "run") == 75
    assert "after step 3" in capsys.readouterr().err
    monkeypatch.setattr(Console, "tick", tick)
    assert train(tmp_path / "run") == 0
    assert "resuming from step 3" in capsys.readouterr().out


def test_without_an_intact_checkpoint_the_code_is_five(run, train, tmp_path, capsys):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    for manifest in workdir.glob("checkpoints/*/manifest.json"):
        manifest.write_bytes(manifest.read_bytes()[:-20])
    assert train(workdir, "--config.train.steps=8") == 5
    assert lm_jax("evaluate", f"--workdir={workdir}") == 5


@pytest.mark.slow
def test_a_run_on_a_mesh_of_the_librarys_choice_resumes(train, tmp_path, capsys):
    assert train(tmp_path / "run", "--config.mesh=auto", "--config.train.steps=2") == 0
    printed = capsys.readouterr().out
    assert "mesh       auto: data 8 x fsdp 1 x tensor 1, remat none; 2 rows on a device" in printed
    assert json.loads((tmp_path / "run" / "config.json").read_text())["mesh"]["auto"]
    assert train(tmp_path / "run", "--config.mesh=auto", "--config.train.steps=3") == 0
    assert "resuming from step 2" in capsys.readouterr().out
