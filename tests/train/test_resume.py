"""A run that is killed and restarted ends with the same bits as an uninterrupted one."""

import json
import signal
import subprocess
import time

import numpy as np
import pytest

from lm_jax.train.checkpoint import Checkpointer
from tests.commands import command, golden_flags, one_device, recipe_flags

STEPS = 40
OTHERS = "albert bart bert electra ernie fim mcbert prefix roberta spanbert t5 ul2 xlnet".split()


@pytest.mark.parametrize(
    ("recipe", "moments"),
    [
        ("gpt", "float32"),
        pytest.param("gpt", "int8", marks=pytest.mark.slow),
        *(pytest.param(each, "float32", marks=pytest.mark.slow) for each in OTHERS),
    ],
)
def test_sigkill_and_restart_end_with_the_same_bits(recipe, moments, tmp_path):
    flags = [
        "train",
        f"--config={recipe}:tiny",
        f"--config.train.steps={STEPS}",
        "--config.checkpoint.every=10",
        "--config.evaluate.every=20",
        "--config.evaluate.batches=2",
        "--config.log.every=5",
        "--config.train.ema=0.9",
        f"--config.optimizer.moments={moments}",
        *(["--config.model.stack.block.dropout=0.1"] if recipe == "gpt" else []),
        *recipe_flags(recipe, tmp_path),
    ]
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    subprocess.run(command(*flags, f"--workdir={uninterrupted}"), env=one_device(), check=True, capture_output=True)

    process = subprocess.Popen(command(*flags, f"--workdir={killed}"), env=one_device(), stdout=subprocess.DEVNULL)
    _wait_for_step(killed / "metrics.jsonl", 15, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert max(_steps(killed)) < STEPS
    subprocess.run(command(*flags, f"--workdir={killed}"), env=one_device(), check=True, capture_output=True)

    assert arrays(uninterrupted) == arrays(killed)
    names = ("step", "train/loss", "val/loss", "train/tokens", "train/learning_rate")
    read = lambda run: [{name: line.get(name) for name in names} for line in lines(run)]
    assert read(killed) == read(uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("scan", ["never", "always"])
def test_kills_before_at_and_after_a_phase_end_with_the_same_bits(scan, tmp_path):
    flags = ["train", "--config=gpt:tiny", f"--config.train.steps={STEPS}", "--config.checkpoint.every=4"]
    flags += ["--config.checkpoint.keep=20", "--config.evaluate.every=20", "--config.evaluate.batches=2"]
    flags += ["--config.log.every=1", "--config.train.ema=0.9", f"--config.model.stack.scan={scan}"]
    # Phases begin after steps 8, 18, 29 and so on: at a checkpoint, and between two of them.
    depth = 2
    flags += [f"--config.model.stack.depth={depth}", "--config.adapt.method=gradual", "--config.adapt.steps=8,18,29"]
    flags += ["--config.optimizer.layer_decay=0.8", *recipe_flags("gpt", tmp_path)]
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    subprocess.run(command(*flags, f"--workdir={uninterrupted}"), env=one_device(), check=True, capture_output=True)

    for step in (6, 9, 17, 21, 30):
        process = subprocess.Popen(command(*flags, f"--workdir={killed}"), env=one_device(), stdout=subprocess.DEVNULL)
        _wait_for_step(killed / "metrics.jsonl", step, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command(*flags, f"--workdir={killed}"), env=one_device(), check=True, capture_output=True)

    for step in range(4, STEPS + 1, 4):
        assert arrays(uninterrupted, step) == arrays(killed, step), step
    names = {step: arrays(uninterrupted, step) for step in (4, 8, 12)}
    path = "params/model/stack/layers/attention/query/kernel"
    first, last = (lambda step: names[step][path][: len(names[step][path]) // depth]), (lambda step: names[step][path])
    # Until step 8 no layer is trained, and then only the last one.
    assert last(4) == last(8) != last(12) and first(4) == first(12)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_of_them_at_the_same_step(tmp_path, free_port):
    flags = ["train", "--config=gpt:tiny", "--config.train.steps=100000", "--config.log.every=1"]
    flags += [f"--workdir={tmp_path / 'run'}", f"--coordinator=localhost:{free_port}", "--processes=2"]
    flags += golden_flags(tmp_path / "store")
    processes = [
        subprocess.Popen(command(*flags, f"--process={index}"), env=one_device(), stderr=subprocess.PIPE, text=True)
        for index in (0, 1)
    ]
    try:
        _wait_for_step(tmp_path / "run" / "metrics.jsonl", 3, processes[0])
        processes[1].send_signal(signal.SIGTERM)
        messages = [process.communicate(timeout=60)[1].splitlines()[-1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [75, 75]
    (step,) = Checkpointer(tmp_path / "run" / "checkpoints").steps()
    assert all(f"stopped by a signal after step {step};" in message for message in messages)


def _wait_for_step(path, step, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        if path.exists() and any(json.loads(line)["step"] >= step for line in path.read_text().splitlines()[:-1]):
            return
        time.sleep(0.005)
    raise AssertionError("the run did not start")


def lines(run):
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _steps(run):
    return [line["step"] for line in lines(run)]


def arrays(run, step=STEPS):
    """Every leaf of the state of a step as bytes."""
    checkpointer = Checkpointer(run / "checkpoints")
    state, _ = checkpointer.restore(checkpointer.describe(step), step)
    return {name: np.asarray(leaf).tobytes() for name, leaf in state.items()}
