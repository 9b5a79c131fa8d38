"""Metrics survive kills; TensorBoard, JSON readers and people can read them."""

import io
import json
import math

import jax.numpy as jnp

from lm_jax.train import metrics
from lm_jax.train.logging import Logger


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_every_line_is_strict_json(tmp_path):
    with Logger(tmp_path, total=10, stream=io.StringIO()) as logger:
        logger.write(1, {"train/loss": jnp.float32(2.5), "train/tokens": 64})
        logger.write(2, {"train/loss": math.nan, "train/scale": math.inf})
    assert lines(tmp_path) == [
        {"step": 1, "train/loss": 2.5, "train/tokens": 64},
        {"step": 2, "train/loss": "nan", "train/scale": "inf"},
    ]
    assert metrics.read(tmp_path)[1]["train/scale"] == math.inf
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_resuming_drops_later_lines_and_an_incomplete_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with Logger(tmp_path, total=10, names=["jsonl"], stream=io.StringIO()) as logger:
        for step in range(1, 7):
            logger.write(step, {"train/loss": 1 / step})
    with open(path, "a") as file:
        file.write('{"step": 7, "train/lo')
    assert len(metrics.read(tmp_path)) == 6
    with Logger(tmp_path, total=10, start=4, names=["jsonl"], stream=io.StringIO()) as logger:
        logger.write(5, {"train/loss": 0.5})
    assert [(entry["step"], entry["train/loss"]) for entry in lines(tmp_path)][-2:] == [(4, 0.25), (5, 0.5)]
    assert metrics.truncate(path, 2) == 3
    assert [entry["step"] for entry in lines(tmp_path)] == [1, 2]
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_without_a_terminal_there_are_plain_lines(tmp_path):
    stream = io.StringIO()
    with Logger(tmp_path, total=10, every=4, names=["jsonl"], stream=stream) as logger:
        for step in range(1, 11):
            logger.tick(step)
            logger.write(step, {"train/loss": 2.0, "train/tokens_per_second": 12345.6, "train/mfu": 0.4})
        logger.write(10, {"val/loss": 3.14159})
        logger.say("done")
    assert stream.getvalue().splitlines() == [
        *(f"step {step}/10  loss 2  tokens/s 12.3k  MFU 40.0%" for step in (1, 5, 9, 10)),
        "step 10/10  val/loss 3.142",
        "done",
    ]


def test_other_processes_write_nothing(tmp_path):
    with Logger(tmp_path / "run", total=10, active=False) as logger:
        logger.write(1, {"train/loss": 1.0})
        logger.tick(1)
        logger.say("hello")
    assert not (tmp_path / "run").exists()
