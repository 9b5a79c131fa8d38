"""Optimizers and learning-rate schedules, from Optax, over a table of names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lm_jax.core.config import InputError, lookup
from lm_jax.core.trees import map_named, matches, path_name


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamWConfig:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101)."""

    b1: float = 0.9
    b2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdafactorConfig:
    """Adafactor (Shazeer and Stern 2018, arXiv:1804.04235); defaults are T5's."""

    decay_rate: float = 0.8
    clipping_threshold: float = 1.0
    scale_by_parameter: bool = True
    weight_decay: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate moves.

    Attributes:
      name: `constant`, `linear`, `cosine`, or `rsqrt` (1 / sqrt(step), Vaswani et al. 2017, eq. 3).
      warmup: updates of linear rise from 0 to the peak.
      final: share of the peak that `linear` and `cosine` end at.
      steps: updates until then; None is config.train.steps.
    """

    name: str = "cosine"
    warmup: int = 0
    final: float = 0.1
    steps: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Which optimizer, and how it is driven; only the subtree of `name` is read.

    Attributes:
      learning_rate: the peak; of `rsqrt`, the value at the end of the warmup.
      no_decay: parameters whose path matches one of these regular expressions have no weight decay.
      clip: largest global norm of the gradients; 0 does not clip.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    schedule: ScheduleConfig = ScheduleConfig()
    clip: float = 1.0
    no_decay: tuple[str, ...] = ("bias$", "scale$", "norm")
    adamw: AdamWConfig = AdamWConfig()
    adafactor: AdafactorConfig = AdafactorConfig()


def _constant(config: ScheduleConfig, peak: float, steps: int) -> optax.Schedule:
    return optax.constant_schedule(peak)


def _linear(config: ScheduleConfig, peak: float, steps: int) -> optax.Schedule:
    return optax.linear_schedule(peak, peak * config.final, max(steps - config.warmup, 1))


def _cosine(config: ScheduleConfig, peak: float, steps: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(peak, max(steps - config.warmup, 1), config.final)


def _rsqrt(config: ScheduleConfig, peak: float, steps: int) -> optax.Schedule:
    warmup = max(config.warmup, 1)
    # At least `warmup`: joined schedules are also asked about counts before their own beginning.
    return lambda count: peak * (warmup / jnp.maximum(count + warmup, warmup)) ** 0.5


SCHEDULES = {"constant": _constant, "linear": _linear, "cosine": _cosine, "rsqrt": _rsqrt}


def schedule(config: OptimizerConfig, steps: int) -> Callable[[Any], Any]:
    """Learning rate as a function of the number of updates made so far, in a run of `steps`."""
    shape = config.schedule
    steps = steps if shape.steps is None else shape.steps
    if shape.warmup > steps:
        raise InputError(
            f"config.optimizer.schedule.warmup is {shape.warmup}, longer than the {steps} steps of the schedule"
        )
    after = lookup(SCHEDULES, shape.name, "config.optimizer.schedule.name")(shape, config.learning_rate, steps)
    if not shape.warmup:
        return after
    # From one step above zero: an update with a learning rate of 0 would be wasted.
    rise = lambda count: config.learning_rate * (count + 1) / (shape.warmup + 1)
    return optax.join_schedules([rise, after], [shape.warmup])


def _adamw(
    config: OptimizerConfig, rate: optax.Schedule, decayed: Callable[[Any], Any]
) -> optax.GradientTransformation:
    adam = config.adamw
    return optax.chain(
        optax.scale_by_adam(adam.b1, adam.b2, adam.epsilon),
        optax.add_decayed_weights(adam.weight_decay, decayed),
        optax.scale_by_learning_rate(rate),
    )


def _adafactor(
    config: OptimizerConfig, rate: optax.Schedule, decayed: Callable[[Any], Any]
) -> optax.GradientTransformation:
    factor = config.adafactor
    inner = [
        optax.scale_by_factored_rms(decay_rate=factor.decay_rate),
        optax.clip_by_block_rms(factor.clipping_threshold),
    ]
    if factor.scale_by_parameter:
        inner.append(optax.scale_by_param_block_rms())
    return optax.chain(
        matrices(optax.chain(*inner)),
        optax.add_decayed_weights(factor.weight_decay, decayed),
        optax.scale_by_learning_rate(rate),
    )


OPTIMIZERS = {"adamw": _adamw, "adafactor": _adafactor}


def build(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clipping, the optimizer and its schedule as one transformation."""
    decayed = lambda params: map_named(lambda path, leaf: not matches(config.no_decay, path), params)
    transform = lookup(OPTIMIZERS, config.name, "config.optimizer.name")(config, schedule(config, steps), decayed)
    return optax.chain(optax.clip_by_global_norm(config.clip), transform) if config.clip else transform


def matrices(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` on one layer's matrices at a time, for optimizers that look at more than single numbers.

    Parameters of a stack are stored with a leading `layers` axis, projections with their heads apart. `inner` sees
    what a model written out layer by layer would hold: one matrix [in, out] per projection and layer.
    """

    def split(tree: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        single, stacked = {}, {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = path_name(path)
            (stacked if "layers/" in name else single)[name] = _as_matrix(name, leaf)
        return single, stacked

    def init(params: Any) -> Any:
        single, stacked = split(params)
        return inner.init(single), jax.vmap(inner.init)(stacked) if stacked else ()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        single: Any
        stacked: Any
        (single, stacked), (single_params, stacked_params) = split(updates), split(params)
        single, single_state = inner.update(single, state[0], single_params)
        stacked_state = state[1]
        if stacked:
            stacked, stacked_state = jax.vmap(inner.update)(stacked, state[1], stacked_params)
        done = {**single, **stacked}
        updates = map_named(lambda path, leaf: done[path].reshape(leaf.shape), updates)
        return updates, (single_state, stacked_state)

    return optax.GradientTransformation(init, update)


def _as_matrix(path: str, leaf: jax.Array) -> jax.Array:
    """A projection's kernel with its heads joined to one axis; anything else as it is."""
    lead = 1 if "layers/" in path else 0
    if not path.endswith("kernel") or leaf.ndim - lead < 3:
        return leaf
    joined = 2 if path.endswith("out/kernel") else 1
    rows = leaf.shape[lead : lead + joined]
    size = 1
    for length in rows:
        size *= length
    return leaf.reshape(*leaf.shape[:lead], size, -1)
