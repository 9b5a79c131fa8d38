"""ELECTRA's step over its parts, in time: `python -m benchmarks.replaced [rows=32] [length=128] [rounds=7]`.

The parts are a masked step of the generator and the gradients of the discriminator's loss on a batch that is already
corrupted. The steps take turns in one process; the medians of their times are printed, and of the ratios in each round,
by wall and by CPU time. What the parts lack is sampling, and the discriminator's update.
ELECTRA's small size: 12 layers of 256 for the discriminator and of 64 for the generator, vocabulary 30,522.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.worker import generator, vocabulary
from lm_jax.core.config import from_config_dict
from lm_jax.data.pipeline import KEYS
from lm_jax.models.config import TransformerConfig
from lm_jax.models.interface import Inputs
from lm_jax.models.model import build_model
from lm_jax.models.presets.bert import electra, electra_generator
from lm_jax.objectives.base import Objective
from lm_jax.objectives.masked import Masked, MaskedConfig
from lm_jax.objectives.replaced import Replaced, ReplacedConfig, detection
from lm_jax.objectives.roles import Models
from lm_jax.objectives.substituted import Substituted, SubstitutedConfig
from lm_jax.train import optimizers, state, step

VOCAB = 30_522


def main() -> None:
    """Print one JSON line for ELECTRA and one for MC-BERT."""
    words = {"rows": 32, "length": 128, "rounds": 7}
    words |= {name: int(value) for name, value in (word.split("=", 1) for word in sys.argv[1:])}
    rows, length = words["rows"], words["length"]
    small: Any = electra_generator("small")
    large: Any = electra("small")
    for model in (small, large):
        model.stack.block.dropout = model.stack.block.attention.dropout = model.embed.dropout = 0.0
    large.detection, large.readout = True, small.readout
    configs = {"small": small, "large": large}
    models = {name: build_model(from_config_dict(TransformerConfig, tree), VOCAB) for name, tree in configs.items()}
    ids, rng = vocabulary(VOCAB), generator(1)
    objective = Replaced(ReplacedConfig(), ids, length)
    text = rng.integers(*ids.ordinary, (rows, length - 2), dtype="int32")
    features = [objective.features({"tokens": tokens}, rng) for tokens in text]
    batch = {name: jnp.stack([row[name] for row in features]) for name in features[0]}
    batch |= {"types": jnp.zeros_like(batch["tokens"]), KEYS: rng.integers(0, 1 << 32, (rows, 2), "uint32")}
    masked = Masked(MaskedConfig(next_sentence=False), ids, length)
    substituted = Substituted(SubstitutedConfig(), ids, length)
    parts = [train(masked, {"model": models["small"]}, batch), discriminate(models["large"], batch)]
    pairs = {
        "replaced": (objective, {"generator": models["small"], "discriminator": models["large"]}),
        "substituted": (substituted, {"generator": models["small"], "model": models["large"]}),
    }
    for name, (whole, roles) in pairs.items():
        compare(name, train(whole, roles, batch), parts, words["rounds"])


def train(objective: Objective, models: Any, batch: Any) -> Callable[[], None]:
    """Return a function that runs one AdamW step and waits for it."""
    roles = Models(objective.roles, models)
    config = optimizers.OptimizerConfig(schedule=optimizers.ScheduleConfig(name="constant"))
    optimizer = optimizers.build_optimizer(config, 1000, roles.axes)
    now = state.create(jax.jit(roles.draw)(0), optimizer, loss_scaled=False)
    function = jax.jit(step.make_train_step(objective, roles, optimizer), donate_argnums=0)

    def go() -> None:
        nonlocal now
        now, _ = function(now, batch)
        jax.block_until_ready(now)

    return go


def discriminate(model: Any, batch: Any) -> Callable[[], None]:
    """Return a function that computes the gradients of the discriminator's loss and waits for them."""
    params = jax.jit(model.draw)(jax.random.key(0))
    inputs = Inputs(tokens=batch["tokens"], segments=batch["segments"])
    replaced, real = batch["tokens"] % 7 == 0, jnp.ones(batch["tokens"].shape)

    def loss(params: Any) -> jax.Array:
        bound = model.bind(params)
        return detection(bound.head("detect", bound(inputs).hidden), replaced, real)["discriminator_loss"].total

    function = jax.jit(jax.grad(loss))
    return lambda: jax.block_until_ready(function(params)) and None


def compare(name: str, whole: Callable[[], None], parts: list[Callable[[], None]], rounds: int) -> None:
    """Print the times of a step and of its parts, and the median of their ratio over the rounds."""
    works = [whole, *parts]
    wall: list[list[float]] = []
    cpu: list[list[float]] = []
    # The first round compiles, and is dropped.
    for _ in range(rounds + 1):
        wall.append([])
        cpu.append([])
        for work in works:
            start, spent = time.perf_counter(), time.process_time()
            work()
            wall[-1].append(time.perf_counter() - start)
            cpu[-1].append(time.process_time() - spent)
    step_s, masked_s, gradients_s = (statistics.median(each) for each in zip(*wall[1:], strict=True))
    ratio = lambda times: round(statistics.median(each[0] / sum(each[1:]) for each in times[1:]), 3)
    report = {
        "objective": name,
        "step_ms": round(1e3 * step_s, 1),
        "masked_step_ms": round(1e3 * masked_s, 1),
        "discriminator_gradients_ms": round(1e3 * gradients_s, 1),
        "step_over_parts": ratio(wall),
        "step_over_parts_cpu": ratio(cpu),
        "rounds": rounds,
        "load": round(os.getloadavg()[0], 2),
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
