"""Functions that the workers share, and a model with the train step of one objective."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from lm_jax.core import host

host.keep_freed_memory()

import jax
import numpy as np

from benchmarks import protocol
from lm_jax.core.config import Tree, from_config_dict
from lm_jax.flags import override
from lm_jax.models.config import KINDS
from lm_jax.models.model import from_module
from lm_jax.models.transformer import build_transformer
from lm_jax.objectives.base import Objective, Vocabulary
from lm_jax.objectives.roles import Models
from lm_jax.objectives.task import Task
from lm_jax.train import optimizers, state, step


def vocabulary(size: int, sentinels: int = 0, labels: Mapping[str, Sequence[str]] | None = None) -> Vocabulary:
    """Return a vocabulary with its special tokens first and its sentinels last."""
    last, special = size - sentinels, {"pad": 0, "bos": 2, "eos": 3, "cls": 4, "sep": 5, "mask": 6}
    sentinel_ids = tuple(range(last, size))
    return Vocabulary(size=size, **special, sentinels=sentinel_ids, ordinary=(7, last), labels=Tree(labels or {}))


class Training:
    """A model, an objective and an optimizer, with an eval step and train steps compiled for the shapes of batches."""

    def __init__(
        self, model: Any, objective: Objective, optimizer: optimizers.OptimizerConfig, steps: int, *batches: Any
    ):
        words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
        words.pop("task", None)
        generator = words.pop("generator", "threefry")
        model = override(model, [f"--config.{name}={value}" for name, value in words.items()])
        config = from_config_dict(KINDS[model.kind], model, "config.model")
        if isinstance(objective, Task):
            config = dataclasses.replace(config, task=objective.head(config.task))
        self.module = build_transformer(config)
        self.objective = objective
        models = Models(objective.roles, {role: from_module(self.module) for role in objective.roles})
        transform = optimizers.build_optimizer(optimizer, steps, models.axes)
        self.state = state.create(jax.jit(models.draw)(0), transform, loss_scaled=model.dtype == "float16")
        start = time.perf_counter()
        jitted = jax.jit(step.make_train_step(objective, models, transform, generator=generator), donate_argnums=0)
        like = {_shape(batch): batch for batch in batches}
        self.steps = {shape: jitted.lower(self.state, batch).compile() for shape, batch in like.items()}
        self.compile_s = round(time.perf_counter() - start, 2)
        temporaries = [each.memory_analysis().temp_size_in_bytes for each in self.steps.values()]
        self.temp_mb = round(max(temporaries) / 1e6)
        self.evaluate = jax.jit(step.make_eval_step(objective, models))

    def train(self, batch: Any) -> Any:
        """Run one step and return its sums, which the device may still be computing."""
        self.state, sums = self.steps[_shape(batch)](self.state, batch)
        return sums

    def serve(self, batch: Any, loss: str, *, tokens: int) -> None:
        """Serve train steps on one fixed batch of `tokens` tokens, and report the mean `loss`."""

        def go(units: int) -> float:
            for _ in range(units):
                sums = self.train(batch)
            return round(sums[loss].mean(), 4)

        serve(go, tokens=tokens, compile_s=self.compile_s, temp_mb=self.temp_mb)


def _shape(batch: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(np.shape(leaf) for leaf in jax.tree.leaves(batch))


def serve(go: Callable[[int], Any], **info: Any) -> None:
    """Serve as `protocol.serve` does, and report the jax version."""
    protocol.serve(go, jax=jax.__version__, **info)


def generator(seed: int) -> np.random.Generator:
    """Return a generator of the host's random numbers."""
    return np.random.default_rng(seed)
