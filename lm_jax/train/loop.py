"""The training loop: steps, metrics (read one step late), evaluation, checkpoints."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from lm_jax.core.config import InputError, lookup, setting
from lm_jax.core.sums import Sums, add, means
from lm_jax.train.base import STORES
from lm_jax.train.generators import GENERATORS
from lm_jax.train.state import TrainState
from lm_jax.train.step import Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length of the run, its seeds and trained parameters, gradient accumulation, averaging and time limit.

    Attributes:
      steps: batches of the whole run; computed if `epochs` is set.
      epochs: passes over the training rows of the whole run, such as 3 or 0.5; 0: `steps` decides.
      seeds: one run per seed, in WORKDIR/seed-1 and so on; empty: a single run with `config.seed`.
      only: regular expressions; only parameters with a matching path are trained, such as `^task/`; empty: all.
      accumulate: micro-batches per batch.
      generator: draws the random numbers of dropout, a key of `train.generators.GENERATORS`: "threefry", or "hashed",
        which takes a tenth of the time on a CPU.
      ema: decay of the parameters' exponential moving average, such as 0.999, used to evaluate and generate; 0: none.
      timeout_s: maximum time of a step with its checkpoint, after which the run ends (exit code 4); 0: no limit.
    """

    steps: int = setting(1000, free=True)
    epochs: float = setting(0.0, free=True, at_least=0)
    seeds: tuple[int, ...] = setting((), at_least=0, below=2**32)
    only: tuple[str, ...] = ()
    accumulate: int = 1
    generator: str = "threefry"
    ema: float = 0.0
    timeout_s: float = setting(3600.0, free=True)

    def __post_init__(self):
        if self.steps < 1 or self.accumulate < 1:
            raise InputError(
                f"config.train.steps is {self.steps} and .accumulate {self.accumulate}; expected at least 1 each"
            )
        if self.timeout_s < 0:
            raise InputError(f"config.train.timeout_s is {self.timeout_s}; expected seconds, or 0 for no limit")
        if not 0 <= self.ema < 1:
            raise InputError(f"config.train.ema is {self.ema}; expected 0 (none) or a decay below 1, such as 0.999")
        lookup(GENERATORS, self.generator, "config.train.generator")
        if len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"config.train.seeds is {self.seeds}; expected different seeds, as in 1,2,3")
        for pattern in self.only:
            try:
                re.compile(pattern)
            except re.error as error:
                message = f"config.train.only has {pattern!r}, which is not a regular expression: {error}"
                raise InputError(message) from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the state is saved, and how many checkpoints are kept.

    The step of the best evaluation so far is saved too.

    Attributes:
      every: steps between checkpoints; 0 saves at the end only.
      keep: number of newest checkpoints to keep, besides the best.
      asynchronous: write in the background while training continues.
      store: a key of `train.base.STORES`: "trained": parameters that a fork leaves frozen stay in the run that it
        started from, which must not be deleted; "all": they are stored too.
    """

    every: int = setting(500, at_least=0)
    keep: int = setting(2, at_least=1)
    asynchronous: bool = True
    store: str = "trained"

    def __post_init__(self):
        lookup(STORES, self.store, "config.checkpoint.store")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Where metrics are reported, and how often.

    Attributes:
      every: steps between log lines.
      writers: names of `train.writers.WRITERS`.
      profile: first and last step to trace, such as `100,105`; empty: on demand only (`train.profile`).
    """

    every: int = setting(10, at_least=0)
    writers: tuple[str, ...] = ("jsonl", "tensorboard")
    profile: tuple[int, ...] = ()

    def __post_init__(self):
        if self.profile and not (len(self.profile) == 2 and 1 <= self.profile[0] <= self.profile[1]):
            raise InputError(f"config.log.profile is {self.profile}; expected first and last step, as in 100,105")


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; exit code 3."""


class Preempted(RuntimeError):
    """A signal stopped the run after its state was saved; exit code 75."""


class Verdict(NamedTuple):
    """What follows from an evaluation: whether to save the state, and whether to stop."""

    save: bool = False
    stop: bool = False


Report = Callable[[int, int, dict[str, float]], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainer:
    """Everything that the loop needs besides the state and the batches.

    Attributes:
      step: the jitted train step.
      put: converts the rows of this process to a global batch.
      terms: metrics whose means add up to the loss.
      steps: number of the last step.
      log_every, save_every: intervals in steps; 0: only at the end of the run.
      evaluates: whether to evaluate after a step, besides the last.
      report: called with (step, updates, metrics averaged since the last report).
      tick: called with the number of every step, for progress bars.
      evaluate: called with (step, weights), alike on every process; None if there is nothing to evaluate on.
      save: called with (step, state).
    """

    step: Step
    put: Callable[[Mapping[str, np.ndarray]], Any]
    terms: tuple[str, ...]
    steps: int
    log_every: int
    save_every: int
    evaluates: Callable[[int], bool]
    report: Report
    tick: Callable[[int], None]
    evaluate: Callable[[int, Any], Verdict] | None
    save: Callable[[int, TrainState], None]

    def fit(self, state: TrainState, batches: Iterator[Mapping[str, np.ndarray]]) -> TrainState:
        """Trains from `state.step` to the last step, or until an evaluation says to stop; that state is saved.

        Raises:
          NonFiniteLoss: the loss is not finite; the last checkpoint is intact.
          Preempted: SIGTERM or SIGINT arrived, at any process of the run; the state was saved.
        """
        step = int(state.step)
        window: list[Sums] = []
        pending: Sums | None = None
        with _stop_signals() as stopped:
            while step < self.steps:
                state, sums = self.step(state, self.put(next(batches)))
                step += 1
                # The host reads the metrics of step - 1 while the device computes `step`.
                if pending is not None:
                    window.append(self._checked(step - 1, pending))
                pending = sums
                self.tick(step)
                stops = _stops(stopped, step)
                ends = step == self.steps or stops
                intervals = self.log_every, self.save_every
                logs, saves = (ends or (every > 0 and step % every == 0) for every in intervals)
                evaluates = ends or self.evaluates(step)
                if logs or evaluates or saves:
                    window.append(self._checked(step, pending))
                    pending = None
                if logs:
                    self._report(step, int(state.updates), window)
                    window = []
                verdict = Verdict()
                if evaluates and self.evaluate is not None and not stops:
                    verdict = self.evaluate(step, state.weights)
                if saves or verdict.save or verdict.stop:
                    self.save(step, state)
                if verdict.stop:
                    break
                if stops and step < self.steps:
                    raise Preempted(f"stopped by a signal after step {step}; the same command resumes there")
        return state

    def _checked(self, step: int, sums: Sums) -> Sums:
        """Fetches the sums of a step; raises NonFiniteLoss if its loss is not finite and the step was not skipped."""
        sums = jax.device_get(sums)
        loss = self._loss(means(sums))
        if not math.isfinite(loss) and not ("skipped" in sums and sums["skipped"].total):
            raise NonFiniteLoss(
                f"the loss of step {step} is {loss}; lower config.optimizer.learning_rate or lengthen the warmup, "
                "then run the same command: it resumes from the last checkpoint"
            )
        return sums

    def _report(self, step: int, updates: int, window: list[Sums]) -> None:
        values = means(functools.reduce(add, window, {}))
        self.report(step, updates, {"loss": self._loss(values), **{k: v for k, v in values.items() if k != "loss"}})

    def _loss(self, values: dict[str, float]) -> float:
        return sum(values[term] for term in self.terms)


def _stops(stopped: threading.Event, step: int) -> bool:
    """Returns whether to stop after `step`, which every process answers alike.

    Processes that stopped at different steps would wait for each other. So with several of them, jax passes the signal
    of one on to all, and chooses a step that none has reached.
    """
    if jax.process_count() == 1:
        return stopped.is_set()
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)


class _stop_signals:  # noqa: N801
    """A context in which the first SIGTERM or SIGINT only sets an event; the second goes to the previous handler.

    With several processes, jax has handled SIGTERM since they were connected, and SIGINT is passed on as SIGTERM.
    """

    def __enter__(self) -> threading.Event:
        self.event = threading.Event()
        self.handlers: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            several = jax.process_count() > 1
            for number in (signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT):
                self.handlers[number] = signal.signal(number, self._pass_on if several else self._stop)
        return self.event

    def __exit__(self, *error: Any) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: Any) -> None:
        self.event.set()
        signal.signal(number, self.handlers[number])

    def _pass_on(self, number: int, frame: Any) -> None:
        signal.signal(number, self.handlers[number])
        os.kill(os.getpid(), signal.SIGTERM)
