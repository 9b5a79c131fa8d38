"""Metrics survive kills and can be read by eye, by TensorBoard and by any JSON reader."""

import io
import json
import math

import jax.numpy as jnp
import pytest

from lm_jax.core.config import InputError
from lm_jax.train import logging as metrics
from lm_jax.train.logging import Console, Logger


class Terminal(io.StringIO):
    def isatty(self):
        return True


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


def test_resuming_cuts_what_came_after_and_a_half_written_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with Logger(tmp_path, total=10, tensorboard=False, stream=io.StringIO()) as logger:
        for step in range(1, 7):
            logger.write(step, {"train/loss": 1 / step})
    with open(path, "a") as file:
        file.write('{"step": 7, "train/lo')
    assert len(metrics.read(tmp_path)) == 6
    with Logger(tmp_path, total=10, start=4, tensorboard=False, stream=io.StringIO()) as logger:
        logger.write(5, {"train/loss": 0.5})
    assert [(entry["step"], entry["train/loss"]) for entry in lines(tmp_path)][-2:] == [(4, 0.25), (5, 0.5)]
    assert metrics.cut(path, 2) == 3
    assert [entry["step"] for entry in lines(tmp_path)] == [1, 2]
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_without_a_terminal_there_are_plain_lines(tmp_path):
    stream = io.StringIO()
    with Logger(tmp_path, total=10, every=4, tensorboard=False, stream=stream) as logger:
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


def test_a_terminal_gets_a_bar():
    stream = Terminal()
    console = Console(total=10, start=2, stream=stream)
    console.write(5, {"train/loss": 2.5, "train/eta_s": 3723.0, "train/gradient_norm": 1.0})
    console.write(5, {"val/loss": 2.25})
    console.close()
    shown = stream.getvalue()
    assert "5/10" in shown and "loss 2.5  ETA 1:02:03" in shown and "step 5/10  val/loss 2.25\n" in shown


def test_other_processes_write_nothing(tmp_path):
    with Logger(tmp_path / "run", total=10, active=False) as logger:
        logger.write(1, {"train/loss": 1.0})
        logger.tick(1)
        logger.say("hello")
    assert not (tmp_path / "run").exists()


def test_curves_of_several_runs_share_a_figure(tmp_path):
    for run in ("bert", "gpt"):
        with Logger(tmp_path / run, total=100, tensorboard=False, stream=io.StringIO()) as logger:
            for step in range(1, 101):
                logger.write(step, {"train/loss": 5 / step**0.3 + 0.2 * math.sin(step * len(run))})
                if step % 25 == 0:
                    logger.write(step, {"val/loss": 5.2 / step**0.3})
    one = metrics.plot(tmp_path / "bert", tmp_path / "one.png")
    both = metrics.plot([tmp_path / "bert", tmp_path / "gpt"], tmp_path / "plots" / "both.png")
    assert one.read_bytes().startswith(b"\x89PNG") and both.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"no metrics\.jsonl"):
        metrics.plot(tmp_path / "nothing", tmp_path / "no.png")


def test_smoothing_has_no_bias_at_the_start():
    assert metrics.smoothed([3.0] * 200) == pytest.approx([3.0] * 200)
    assert metrics.smoothed([1.0, 2.0]) == [1.0, 2.0]
