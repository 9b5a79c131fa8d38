"""Averages of the parameters over updates, for evaluation, generation and the choice of the best checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from lm_jax.core.config import InputError
from lm_jax.core.trees import Params
from lm_jax.train.optimizers import OptimizerConfig

# (old average, new parameters, new optimizer state, earlier updates) -> new average
Average = Callable[[Params, Params, Any, Int[Array, ""]], Params]


def build_average(optimizer: OptimizerConfig, ema: float) -> Average | None:
    """Returns the average that schedule_free requires; for other optimizers an exponential one, or None if `ema` is 0.

    Raises:
      InputError: `ema` is set, but the optimizer schedule_free has its own average.
    """
    if optimizer.name != "schedule_free":
        return exponential(ema) if ema else None
    if ema:
        raise InputError(
            f"config.train.ema is {ema}, but the optimizer schedule_free has its own average; set config.train.ema=0"
        )
    return schedule_free(optimizer.schedule_free.interpolation)


def exponential(decay: float) -> Average:
    """The exponential moving average of the parameters (Polyak and Juditsky 1992).

    The decay of an update is min(decay, (1 + updates) / (10 + updates)), so that the initial parameters fade quickly.
    """

    def average(before: Params, params: Params, opt_state: Any, updates: Array) -> Params:
        current_decay = jnp.minimum(decay, (1.0 + updates) / (10.0 + updates))
        return jax.tree.map(lambda old, new: old + (1 - current_decay) * (new - old), before, params)

    return average


def schedule_free(interpolation: float) -> Average:
    """The average x of Defazio et al. 2024 (arXiv:2405.15682, eq. 6-8), from y (the parameters) and z (`opt_state`)."""

    def average(before: Params, params: Params, opt_state: Any, updates: Array) -> Params:
        base = optax.tree.get(opt_state, "z")
        return jax.tree.map(lambda y, z: (y - (1 - interpolation) * z) / interpolation, params, base)

    return average
