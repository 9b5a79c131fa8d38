"""Learning rate schedules by name: functions of the update count."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import optax

from lm_jax.core.config import InputError, lookup, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Shape of the learning rate schedule.

    Attributes:
      name: `constant`, `linear`, `cosine`, `rsqrt` (1 / sqrt(step), Vaswani et al. 2017, eq. 3) or `wsd`
        (warmup, stable, decay: Hu et al. 2024, arXiv:2404.06395, section 4.2).
      warmup: updates of linear warmup to the peak; a value below 1 is a fraction of the steps.
      final: final learning rate of `linear`, `cosine` and `wsd`, as a fraction of the peak.
      steps: updates until the final learning rate; None: config.train.steps.
      decay: fraction of the steps, at the end, in which `wsd` decays linearly (Haegele et al. 2024, arXiv:2405.18392).
    """

    name: str = "cosine"
    warmup: float = setting(0.0, at_least=0)
    final: float = setting(0.1, at_least=0)
    steps: int | None = setting(None, at_least=1)
    decay: float = 0.2

    def __post_init__(self):
        if not 0 < self.decay <= 1:
            raise InputError(f"config.optimizer.schedule.decay is {self.decay}; expected a fraction above 0, at most 1")
        if self.warmup >= 1 and self.warmup != int(self.warmup):
            raise InputError(
                f"config.optimizer.schedule.warmup is {self.warmup}; expected a fraction below 1, or whole steps"
            )

    def resolved(self, steps: int) -> tuple[int, int]:
        """Returns the updates of the warmup and of the whole schedule, for a run of `steps` updates."""
        steps = steps if self.steps is None else self.steps
        warmup = round(self.warmup * steps) if self.warmup < 1 else int(self.warmup)
        if warmup > steps:
            raise InputError(
                f"config.optimizer.schedule.warmup is {warmup}, longer than the {steps} steps of the schedule; use "
                f"less, or a fraction of the steps such as 0.1"
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
    # Clipped, because optax.join_schedules also evaluates the second schedule at negative counts.
    return lambda count: peak * (warmup / jnp.maximum(count + warmup, warmup)) ** 0.5


def _wsd(config: ScheduleConfig, peak: float, warmup: int, steps: int) -> optax.Schedule:
    after = max(steps - warmup, 1)
    decay_steps = max(min(round(steps * config.decay), after), 1)
    return optax.linear_schedule(peak, peak * config.final, decay_steps, transition_begin=after - decay_steps)


SCHEDULES = {"constant": _constant, "linear": _linear, "cosine": _cosine, "rsqrt": _rsqrt, "wsd": _wsd}


def build_schedule(config: ScheduleConfig, peak: float, steps: int) -> optax.Schedule:
    """Builds the learning rate as a function of the update count.

    Args:
      config: shape of the schedule.
      peak: learning rate after the warmup.
      steps: updates of the run; used unless `config.steps` is set.

    Returns:
      An optax schedule: learning rate by update count.

    Raises:
      InputError: unknown schedule, or a warmup longer than the run.

    Example:
      >>> rate = build_schedule(ScheduleConfig(name="linear", warmup=4, final=0.0), peak=1.0, steps=10)
      >>> [round(float(rate(count)), 2) for count in (0, 4, 7, 10)]
      [0.2, 1.0, 0.5, 0.0]
    """
    warmup, steps = config.resolved(steps)
    after = lookup(SCHEDULES, config.name, "config.optimizer.schedule.name")(config, peak, warmup, steps)
    if not warmup:
        return after
    # From above 0, because a learning rate of 0 would waste the first update.
    ramp = lambda count: peak * (count + 1) / (warmup + 1)
    return optax.join_schedules([ramp, after], [warmup])
