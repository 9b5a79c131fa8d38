"""Runs of several seeds: their summary, and what interrupts them."""

import json
import math

import pytest

from lm_jax import flags
from lm_jax.core.config import InputError
from lm_jax.train import metrics
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.train.loop import Preempted
from lm_jax.verbs import seeds

WORDS = ["--config=gpt:tiny", "--config.train.seeds=1,2,3", "--config.train.epochs=2", "--config.seed=7"]


def request(*words):
    return flags.parse("train", [*WORDS[:3], *words])


def trained(losses):
    """A stand-in for training, whose run with seed s ends with the loss losses[s]; its first evaluation is the best."""

    def train(request, workdir):
        loss = losses[request.config.seed]
        if loss is None:
            raise Preempted("stopped by a signal")
        assert request.config.train.seeds == () and request.config.train.epochs == 2
        Checkpointer(workdir / "checkpoints").mark_best(1, 1.0, "loss")
        lines = [{"step": 1, "val/loss": 1.0}, {"step": 1, "train/loss": 1.0}, {"step": 2, "val/loss": loss}]
        (workdir / metrics.FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))

    return train


def test_the_table_has_mean_and_deviation_of_the_best_and_the_final_evaluation(tmp_path, capsys):
    summary = seeds.run(request(), tmp_path, trained({1: 2.0, 2: 4.0, 3: 3.0}))
    assert summary == json.loads((tmp_path / seeds.FILE).read_text())
    assert summary["mean"] == {"best": {"step": 1, "loss": 1.0}, "final": {"step": 2, "loss": 3.0}}
    assert summary["deviation"]["final"]["loss"] == 1.0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["seed", "1", "seed", "2", "seed", "3", "mean", "deviation"] in lines
    assert ["final", "loss", "2.0000", "4.0000", "3.0000", "3.0000", "1.0000"] in lines


def test_a_signal_ends_all_runs_and_the_finished_ones_remain(tmp_path):
    with pytest.raises(Preempted):
        seeds.run(request(), tmp_path, trained({1: 2.0, 2: None}))
    assert (tmp_path / "seed-1" / metrics.FILE).exists() and not (tmp_path / seeds.FILE).exists()


def test_one_seed_has_no_deviation_and_a_diverged_run_no_mean():
    assert seeds.summarise({1: {"final": {"loss": 2.0}}})["deviation"] == {"final": {"loss": None}}
    summary = seeds.summarise({1: {"final": {"loss": 2.0}}, 2: {"final": {"loss": math.nan}}})
    assert summary["mean"] == {"final": {"loss": "nan"}} and seeds.table(summary)[1].split()[-1] == "nan"


def test_seeds_replace_the_seed_and_must_differ(tmp_path):
    with pytest.raises(InputError, match="--config.seed has no effect, because --config.train.seeds is 1,2,3"):
        request(*WORDS[3:])
    with pytest.raises(InputError, match="expected different seeds"):
        flags.need_config(flags.parse("train", [WORDS[0], "--config.train.seeds=1,1"]))
    with pytest.raises(InputError, match="add jsonl to config.log.writers"):
        seeds.run(request("--config.log.writers=console"), tmp_path, trained({}))
