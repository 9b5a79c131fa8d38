"""Learning rates as functions of the number of updates made so far, over a table of names."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import optax

from lm_jax.core.config import InputError, lookup, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate moves.

    Attributes:
      name: `constant`, `linear`, `cosine`, `rsqrt` (1 / sqrt(step), Vaswani et al. 2017, eq. 3) or `wsd`
        (warmup, stable, decay: Hu et al. 2024, arXiv:2404.06395, section 4.2).
      warmup: updates of linear rise from 0 to the peak; below 1, the share of the steps that it takes.
      final: share of the peak that `linear`, `cosine` and `wsd` end at.
      steps: updates until then; None is config.train.steps.
      decay: share of the steps, at their end, in which `wsd` falls (linearly; Haegele et al. 2024, arXiv:2405.18392).
    """

    name: str = "cosine"
    warmup: float = setting(0.0, at_least=0)
    final: float = setting(0.1, at_least=0)
    steps: int | None = setting(None, at_least=1)
    decay: float = 0.2

    def __post_init__(self):
        if not 0 < self.decay <= 1:
            raise InputError(f"config.optimizer.schedule.decay is {self.decay}; expected a share above 0, at most 1")
        if self.warmup >= 1 and self.warmup != int(self.warmup):
            raise InputError(
                f"config.optimizer.schedule.warmup is {self.warmup}; expected a share below 1, or a number of steps"
            )

    def resolved(self, steps: int) -> tuple[int, int]:
        """The updates of the warmup and of the whole schedule, in a run of `steps` updates.

        Raises:
          InputError: the warmup is longer than the schedule.
        """
        steps = steps if self.steps is None else self.steps
        warmup = round(self.warmup * steps) if self.warmup < 1 else int(self.warmup)
        if warmup > steps:
            raise InputError(
                f"config.optimizer.schedule.warmup is {warmup}, longer than the {steps} steps of the schedule; use "
                f"less, or a share of the steps such as 0.1"
            )
        return warmup, steps


def _constant(config: ScheduleConfig, peak: float, warmup: int, steps: int) -> optax.Schedule:
    return optax.constant_schedule(peak)


def _linear(config: ScheduleConfig, peak: float, warmup: int, steps: int) -> optax.Schedule:
    return optax.linear_schedule(peak, peak * config.final, max(steps - warmup, 1))


def _cosine(config: ScheduleConfig, peak: float, warmup: int, steps: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(peak, max(steps - warmup, 1), config.final)


def _rsqrt(config: ScheduleConfig, peak: float, warmup: int, steps: int) -> optax.Schedule:
    warmup = max(warmup, 1)
    # At least `warmup`: joined schedules are also asked about counts before their own beginning.
    return lambda count: peak * (warmup / jnp.maximum(count + warmup, warmup)) ** 0.5


def _wsd(config: ScheduleConfig, peak: float, warmup: int, steps: int) -> optax.Schedule:
    after = max(steps - warmup, 1)
    falling = max(min(round(steps * config.decay), after), 1)
    return optax.linear_schedule(peak, peak * config.final, falling, transition_begin=after - falling)


SCHEDULES = {"constant": _constant, "linear": _linear, "cosine": _cosine, "rsqrt": _rsqrt, "wsd": _wsd}


def build_schedule(config: ScheduleConfig, peak: float, steps: int) -> optax.Schedule:
    """Learning rate as a function of the number of updates made so far.

    Args:
      config: its shape.
      peak: the learning rate after the warmup.
      steps: updates of the run, for schedules that do not say how long they are.
    """
    warmup, steps = config.resolved(steps)
    after = lookup(SCHEDULES, config.name, "config.optimizer.schedule.name")(config, peak, warmup, steps)
    if not warmup:
        return after
    # From one step above zero: an update with a learning rate of 0 would be wasted.
    rise = lambda count: peak * (count + 1) / (warmup + 1)
    return optax.join_schedules([rise, after], [warmup])
