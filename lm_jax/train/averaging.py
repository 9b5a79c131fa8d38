"""Averages of the parameters over updates. If there is one, evaluation, generation and the best mark use it."""

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
    """Returns the average that the optimizer requires, else an exponential one if `ema` is not 0, else None.

    Raises:
      InputError: `ema` is set, but the optimizer has an average of its own.
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

    The decay rises as (1 + updates) / (10 + updates), so that the initial parameters lose their weight quickly.
    """

    def average(before: Params, params: Params, opt_state: Any, updates: Array) -> Params:
        warmed_up = jnp.minimum(decay, (1.0 + updates) / (10.0 + updates))
        return jax.tree.map(lambda old, new: old + (1 - warmed_up) * (new - old), before, params)

    return average


def schedule_free(interpolation: float) -> Average:
    """The average x of Defazio et al. 2024 (arXiv:2405.15682, eq. 6-8), computed from y (the parameters) and z."""

    def average(before: Params, params: Params, opt_state: Any, updates: Array) -> Params:
        fast = optax.tree.get(opt_state, "z")
        return jax.tree.map(lambda y, z: (y - (1 - interpolation) * z) / interpolation, params, fast)

    return average
