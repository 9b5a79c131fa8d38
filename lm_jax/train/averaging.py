"""Averages of the parameters along the run: what is evaluated, generated from and marked as best, if there is one."""

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

# (average so far, new parameters, new optimizer state, updates made) -> new average
Average = Callable[[Params, Params, Any, Int[Array, ""]], Params]


def build_average(optimizer: OptimizerConfig, ema: float) -> Average | None:
    """How the parameters are averaged: as the optimizer needs it, exponentially where `ema` is a decay, or not at all.

    Raises:
      InputError: the optimizer keeps an average already.
    """
    if optimizer.name != "schedule_free":
        return exponential(ema) if ema else None
    if ema:
        raise InputError(
            f"config.train.ema is {ema}, but the optimizer schedule_free keeps an average of its own; set "
            "config.train.ema=0"
        )
    return schedule_free(optimizer.schedule_free.interpolation)


def exponential(decay: float) -> Average:
    """The exponential moving average of the parameters (Polyak and Juditsky 1992).

    Its decay rises as (1 + updates) / (10 + updates), so that the first draws are soon forgotten.
    """

    def average(before: Params, params: Params, opt_state: Any, updates: Array) -> Params:
        kept = jnp.minimum(decay, (1.0 + updates) / (10.0 + updates))
        return jax.tree.map(lambda old, new: old + (1 - kept) * (new - old), before, params)

    return average


def schedule_free(interpolation: float) -> Average:
    """The sequence x of Defazio et al. 2024 (arXiv:2405.15682, eq. 6-8), of which training holds y and z."""

    def average(before: Params, params: Params, opt_state: Any, updates: Array) -> Params:
        fast = optax.tree.get(opt_state, "z")
        return jax.tree.map(lambda y, z: (y - (1 - interpolation) * z) / interpolation, params, fast)

    return average
