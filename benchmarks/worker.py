"""Functions that the workers share, and a model with the train step of one objective."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from lm_jax.core import host

host.keep_freed_memory()

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import protocol
from lm_jax.core.config import from_config_dict
from lm_jax.flags import override
from lm_jax.models.config import KINDS
from lm_jax.models.model import from_module
from lm_jax.models.transformer import build_transformer
from lm_jax.objectives.base import Objective, Vocabulary
from lm_jax.objectives.roles import Models
from lm_jax.train import optimizers, state, step


def vocabulary(size: int, sentinels: int = 0) -> Vocabulary:
    """Return a vocabulary with its special tokens first and its sentinels last."""
    last = size - sentinels
    return Vocabulary(
        size=size, pad=0, bos=2, eos=3, cls=4, sep=5, mask=6, sentinels=tuple(range(last, size)), ordinary=(7, last)
    )


class Training:
    """A model, an objective and an optimizer, with compiled train and eval steps."""

    def __init__(self, model: Any, objective: Objective, optimizer: optimizers.OptimizerConfig, steps: int, batch: Any):
        model = override(model, [f"--config.{word}" for word in sys.argv[1:] if "=" in word])
        self.module = build_transformer(from_config_dict(KINDS[model.kind], model, "config.model"))
        self.objective = objective
        batch = jax.tree.map(jnp.asarray, batch)
        models = Models(objective.roles, {role: from_module(self.module) for role in objective.roles})
        transform = optimizers.build_optimizer(optimizer, steps, models.axes)
        self.state = state.create(jax.jit(models.draw)(0), transform, loss_scaled=model.dtype == "float16")
        start = time.perf_counter()
        jitted = jax.jit(step.make_train_step(objective, models, transform), donate_argnums=0)
        self.step = jitted.lower(self.state, batch).compile()
        self.compile_s = round(time.perf_counter() - start, 2)
        self.temp_mb = round(self.step.memory_analysis().temp_size_in_bytes / 1e6)
        self.evaluate = jax.jit(step.make_eval_step(objective, models))

    def train(self, batch: Any) -> Any:
        """Run one step and return its sums, which the device may still be computing."""
        self.state, sums = self.step(self.state, batch)
        return sums

    def serve(self, batch: Any, loss: str, *, tokens: int) -> None:
        """Serve train steps on one fixed batch of `tokens` tokens, and report the mean `loss`."""

        def go(units: int) -> float:
            for _ in range(units):
                sums = self.train(batch)
            return round(sums[loss].mean(), 4)

        serve(go, tokens=tokens, compile_s=self.compile_s, temp_mb=self.temp_mb)


def serve(go: Callable[[int], Any], **info: Any) -> None:
    """Serve as `protocol.serve` does, and report the jax version."""
    protocol.serve(go, jax=jax.__version__, **info)


def generator(seed: int) -> np.random.Generator:
    """Return a generator of the host's random numbers."""
    return np.random.default_rng(seed)
