"""Runs of tasks that are killed again and again end with the bits of a run that was never killed; so do predictions."""

import json
import random
import re
import signal
import subprocess
import time

import pytest
import workdirs

from lm_jax.data import tokenizers
from lm_jax.train import manifest
from lm_jax.train.checkpoint import Checkpointer
from tests.commands import GOLDEN, command, one_device, run
from tests.test_tasks import WORDS, table
from tests.train.test_resume import arrays, lines

STEPS, ROWS, SHORT, ANSWERED = 60, 96, 32, 7000
# When a process is killed: once the function of its run's directory is true.
MOMENTS = [
    lambda workdir: (workdir / "config.json").exists(),
    lambda workdir: logged(workdir) >= 14,
    # Between the evaluation that decides and the checkpoint, or while it is written.
    lambda workdir: logged(workdir, "val/loss") >= 24,
    lambda workdir: logged(workdir) >= 27 and any((workdir / "checkpoints").glob("*.unfinished")),
]
COMMON = [
    *(f"--config.{each}" for each in ("data.workers=1", "data.threads=1", "data.batch=8", "data.validation=24")),
    *(f"--config.{each}" for each in (f"train.steps={STEPS}", "evaluate.every=6", "checkpoint.every=10")),
    *(f"--config.{each}" for each in ("log.every=2", "log.writers=jsonl")),
]
# By recipe: the format of its file and other settings.
KINDS = {
    "classify": ("jsonl", [f"--config.data.buckets={SHORT}", "--config.evaluate.patience=4"]),
    "tag": ("conll", ["--config.data.length=24"]),
    "qa": ("squad", ["--config.objective.answer.overlap=4", "--config.data.length=40"]),
}


def record(number, rng):
    """A row whose label has noise, so that its metric does not only rise."""
    words = [rng.choice(WORDS) for _ in range(rng.choice((3, 9, 20)))]
    answer = rng.choice(words)
    label = ("lamp" in words) != (rng.random() < 0.2)
    return {
        **{"text": " ".join(words), "label": int(label), "question": f"where is the {answer}?", "answer": answer},
        "tags": " ".join("B-X" if word == "rain" else "O" for word in words),
    }


def rows_of(folder, form, count, seed=0):
    rng = random.Random(seed)
    suffix = {"conll": ".txt", "squad": ".json"}.get(form, ".jsonl")
    return table(folder / f"rows-{count}{suffix}", [record(number, rng) for number in range(count)], form)


def logged(workdir, name="step"):
    """The last step of which metrics.jsonl has a value."""
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    entries = map(json.loads, text[: text.rfind("\n") + 1].splitlines())
    return max((entry["step"] for entry in entries if name in entry), default=0)


def kill(words, moment):
    """Starts a command and kills it when `moment()` is true."""
    process = subprocess.Popen(command(*words), env=one_device(), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not moment():
        assert process.poll() is None, "the command ended before it could be killed"
        assert time.monotonic() < deadline, "the moment did not come"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()


def values(workdir):
    """The lines of metrics.jsonl without speeds."""
    names = ("step", "train/tokens", "train/learning_rate")
    kept = lambda name: name.startswith("val/") or name.endswith(("loss", "accuracy")) or name in names
    return [{name: value for name, value in line.items() if kept(name)} for line in lines(workdir)]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", KINDS)
def test_killed_runs_of_tasks_end_with_the_same_bits(recipe, tmp_path):
    form, settings = KINDS[recipe]
    path, never, killed = rows_of(tmp_path, form, ROWS), tmp_path / "never", tmp_path / "killed"
    words = ["train", f"--config={recipe}:tiny", f"--config.data.path={path}", f"--config.data.store={tmp_path}"]
    words += [*COMMON, *settings]
    assert run(*words, f"--workdir={never}").returncode == 0

    for moment in MOMENTS:
        kill([*words, f"--workdir={killed}"], lambda moment=moment: moment(killed))
    assert run(*words, f"--workdir={killed}").returncode == 0

    checkpoints = [Checkpointer(workdir / "checkpoints") for workdir in (never, killed)]
    last = checkpoints[0].latest()
    assert all(each.steps() == checkpoints[0].steps() and each.latest() == last for each in checkpoints)
    for step in checkpoints[0].steps():
        assert arrays(never, step) == arrays(killed, step)
    assert values(never) == values(killed)
    best = [(workdir / "checkpoints" / "best.json").read_bytes() for workdir in (never, killed)]
    assert best[0] == best[1]
    if recipe == "classify":
        # It stopped early, because the best was four evaluations before.
        assert last < STEPS and json.loads(best[0])["step"] == last - 4 * 6
        tokens = [line["train/tokens"] for line in lines(killed) if "train/tokens" in line]
        assert tokens[-1] < last * 8 * 64


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "last"])
def test_killed_runs_without_their_frozen_parameters_end_with_the_same_bits(method, tmp_path):
    path, never, killed = rows_of(tmp_path, "jsonl", ROWS), tmp_path / "never", tmp_path / "killed"
    workdirs.draw(tmp_path / "base", "bert", tokenizers.load(GOLDEN / "tokenizer"), stack__depth=3)
    words = ["train", "--config=classify", f"--fork={tmp_path / 'base'}", f"--config.adapt.method={method}"]
    words += [f"--config.data.path={path}", f"--config.data.store={tmp_path}", *COMMON, "--config.data.length=32"]
    words += ["--config.data.buckets=", "--config.train.epochs=0", "--config.evaluate.per_epoch=0"]
    words += ["--config.train.ema=0.9", "--config.evaluate.best="]
    assert run(*words, f"--workdir={never}").returncode == 0

    for moment in MOMENTS:
        kill([*words, f"--workdir={killed}"], lambda moment=moment: moment(killed))
    assert run(*words, f"--workdir={killed}").returncode == 0

    assert arrays(never, STEPS) == arrays(killed, STEPS) and values(never) == values(killed)
    leaves = manifest.read(killed / "checkpoints" / str(STEPS))["about"]["leaves"]
    stored = {path for path, leaf in leaves.items() if path.startswith("frozen/") and not leaf.get("omitted")}
    assert all(path.endswith("/lora/scale") for path in stored), stored


@pytest.mark.slow
def test_killed_predictions_have_the_same_bytes(tmp_path):
    path, workdir = rows_of(tmp_path, "jsonl", ROWS), tmp_path / "run"
    words = ["train", "--config=classify:tiny", f"--config.data.path={path}", f"--config.data.store={tmp_path}"]
    assert run(*words, *COMMON, "--config.train.steps=4", f"--workdir={workdir}").returncode == 0
    words = ["predict", f"--workdir={workdir}", f"--input={rows_of(tmp_path, 'jsonl', ANSWERED, seed=1)}"]
    assert run(*words, f"--output={tmp_path / 'never.jsonl'}").returncode == 0

    output = tmp_path / "killed.jsonl"
    written = lambda: sum(path.read_bytes().count(b"\n") for path in tmp_path.glob("killed.jsonl.*.partial"))
    # While the first rows are written, and rows of a later chunk.
    for lines_before in (1, ANSWERED // 2):
        kill([*words, f"--output={output}"], lambda least=lines_before: written() >= least)
        assert not output.exists()
    finished = run(*words, f"--output={output}")

    assert finished.returncode == 0
    (kept,) = re.findall(f"has the answers to (.*) of {ANSWERED:,} rows", finished.stdout)
    assert 0 < int(kept.replace(",", "")) < ANSWERED
    assert output.read_bytes() == (tmp_path / "never.jsonl").read_bytes()
    assert output.read_bytes().count(b"\n") == ANSWERED and not [*tmp_path.glob("*.partial")]
