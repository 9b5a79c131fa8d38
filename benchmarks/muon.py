"""Muon's two forms on a CPU: `python -m benchmarks.muon [rounds=15] [steps=20] [recipe=quickstart:gpt]`.

On a CPU, `optimizers.orthogonalised` iterates on Gram matrices, and matrices of one shape are one batch; elsewhere,
Optax iterates on each matrix. Here both run on the CPU, in one process: first in whole train steps, then in the
optimizer's update alone. In each round each takes `steps` steps, and the one that begins changes from round to round.
Printed are the median time of a step, and the median over the rounds of Gram over plain with its 95 % interval, from
10,000 resamplings of the rounds.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from lm_jax.core import host

host.keep_freed_memory()

import jax

from lm_jax import experiment, flags
from lm_jax.experiment import Experiment
from lm_jax.train import optimizers

BATCHES = 8  # Made before the clock starts; the steps take them in turn.
RESAMPLINGS = 10_000
# Where `optimizers` asks for the device, this one answers that it is not a CPU.
ELSEWHERE = SimpleNamespace(on_cpu=lambda: False)


def main() -> None:
    """Print one JSON line for the train step and one for the optimizer's update alone."""
    words = {"rounds": "15", "steps": "20", "recipe": "quickstart:gpt"}
    words |= dict(word.split("=", 1) for word in sys.argv[1:])
    recipe = experiment.parse(experiment.complete(flags.load_recipe(words["recipe"])))
    text = experiment.prepare(recipe)
    for name, work in {"train step": train, "update": update}.items():
        gram = work(text)
        with mock.patch.object(optimizers, "cpu", ELSEWHERE):
            plain = work(text)
        report = compare({"gram": gram, "plain": plain}, int(words["rounds"]), int(words["steps"]))
        about = {"work": name, "recipe": words["recipe"], "jax": jax.__version__}
        print(json.dumps(about | report), flush=True)


def train(text: Experiment) -> Callable[[int], Any]:
    """Return a function that takes train steps and waits for them; it is traced and compiled here."""
    exp = Experiment(text.config, text.tokenizer, text.store)
    batches = itertools.cycle([exp.put(batch) for batch in itertools.islice(exp.feed.batches(0), BATCHES)])
    now, step = exp.fresh_state(), exp.train_step()

    def go(steps: int) -> None:
        nonlocal now
        for _ in range(steps):
            now, _ = step(now, next(batches))
        jax.block_until_ready(now)

    go(1)
    return go


def update(text: Experiment) -> Callable[[int], Any]:
    """Return a function that computes updates from one gradient and waits for them; it is compiled here."""
    exp = Experiment(text.config, text.tokenizer, text.store)
    now = exp.fresh_state()
    params, states = now.params, now.opt_state
    function = exp.layout.jit(exp.optimizer.update)

    def go(steps: int) -> None:
        for _ in range(steps):
            jax.block_until_ready(function(params, states, params))

    go(1)
    return go


def compare(works: dict[str, Callable[[int], Any]], rounds: int, steps: int) -> dict[str, Any]:
    """Time both forms in turns and return their medians and ratios."""
    wall: dict[str, list[float]] = {name: [] for name in works}
    cpu: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        for name in sorted(works, reverse=number % 2 == 1):
            start, spent = time.perf_counter(), time.process_time()
            works[name](steps)
            wall[name].append((time.perf_counter() - start) / steps)
            cpu[name].append((time.process_time() - spent) / steps)
    report: dict[str, Any] = {f"{name}_ms": round(1e3 * statistics.median(times), 2) for name, times in wall.items()}
    for clock, times in (("time", wall), ("cpu", cpu)):
        ratios = [one / other for one, other in zip(times["gram"], times["plain"], strict=True)]
        report[f"gram_over_plain_{clock}"] = round(statistics.median(ratios), 3)
        report[f"interval_{clock}"] = interval(ratios)
    return report | {"rounds": rounds, "steps": steps, "load": round(os.getloadavg()[0], 2)}


def interval(ratios: Sequence[float]) -> list[float]:
    """Return the 2.5 and 97.5 percentiles of the median of resampled ratios."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(RESAMPLINGS))
    return [round(medians[int(share * RESAMPLINGS)], 3) for share in (0.025, 0.975)]


if __name__ == "__main__":
    main()
