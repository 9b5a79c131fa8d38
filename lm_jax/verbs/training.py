"""Connects the training loop to its log, evaluations, checkpoints and watchdog."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lm_jax import experiment
from lm_jax.core.sums import Sums
from lm_jax.experiment import Experiment, epochs
from lm_jax.objectives.base import Batch
from lm_jax.train import best, throughput
from lm_jax.train.best import Best
from lm_jax.train.checkpoint import Checkpointer, broadcast_from_first
from lm_jax.train.compilation import compile_ahead
from lm_jax.train.logging import Logger
from lm_jax.train.loop import Trainer, Verdict
from lm_jax.train.profile import Profiler
from lm_jax.train.state import TrainState, Weights
from lm_jax.train.step import Step
from lm_jax.train.watchdog import Watchdog
from lm_jax.verbs import report


def train(
    exp: Experiment,
    state: TrainState,
    batches: Iterator[dict[str, np.ndarray]],
    workdir: Path,
    checkpointer: Checkpointer,
    meter: throughput.Meter,
) -> TrainState:
    """Runs the loop from `state` to the last step; logs and checkpoints are written to `workdir`."""
    config, start, active = exp.config, int(state.step), jax.process_index() == 0
    steps, logs, counter = config.train.steps, config.log, Counter(exp, checkpointer, start)
    evaluator, saved = exp.validation(), experiment.as_json(config)
    extra = {
        "config": saved,
        "data_fingerprint": exp.data_fingerprint,
        "tokenizer_fingerprint": exp.tokenizer.fingerprint,
    }
    chosen = best.resume(workdir, config.evaluate.best, start, checkpointer)
    with (
        Logger(
            workdir, total=steps, start=start, every=logs.every, names=logs.writers, config=saved, active=active
        ) as logger,
        Watchdog(config.train.timeout_s) as watchdog,
    ):
        profiler = Profiler(workdir, start=start, steps=logs.profile, say=logger.say, active=active)

        @contextlib.contextmanager
        def paused() -> Iterator[None]:
            with meter.paused(), watchdog.paused():
                yield

        def tick(step: int) -> None:
            watchdog.beat(step)
            logger.tick(step)

        def log(step: int, updates: int, values: dict[str, float]) -> None:
            rate = {"learning_rate": float(exp.learning_rate(max(updates - 1, 0)))}
            values = {**values, **rate, "tokens": counter.read.tokens, **meter.read(step, counter.read)}
            logger.write(step, {f"train/{name}": value for name, value in values.items()})
            profiler.poll()

        def evaluate(step: int, weights: Weights) -> Verdict:
            with paused():
                values = dict(evaluator.run(weights))
            logger.write(step, {f"val/{name}": value for name, value in values.items()})
            verdict = judge(chosen, step, values, config.evaluate.patience)
            if verdict.stop:
                logger.say(f"stopped after step {step}: {chosen.summary()} (config.evaluate.patience)")
            return verdict

        def save(step: int, state: TrainState) -> None:
            with meter.paused():
                checkpointer.save(step, state, {**extra, **counter.saved})
            chosen.write(step, checkpointer)

        trainer = Trainer(
            step=profiler.wrap(counter.wrap(say=logger.say, paused=paused)),
            put=exp.put,
            terms=exp.objective.terms,
            steps=steps,
            log_every=logs.every,
            save_every=config.checkpoint.every,
            evaluates=epochs.evaluates(config.evaluate, len(exp.feed.rows("train")), config.data.batch),
            tick=tick,
            report=log,
            evaluate=evaluate if len(exp.feed.rows("validation")) else None,
            save=save,
        )
        # The meter starts only now that the step is compiled and the first batch is ready.
        meter.start(start, counter.read)
        try:
            return trainer.fit(state, batches)
        finally:
            profiler.close()


def judge(chosen: Best, step: int, values: dict[str, float], patience: int) -> Verdict:
    """Adds an evaluation to the others; process 0 decides for all what follows.

    Raises:
      InputError: the evaluation has no such metric.
    """
    improved = chosen.add(step, values)
    verdict = broadcast_from_first(improved + 2 * bool(patience and chosen.stale >= patience))
    return Verdict(save=verdict % 2 == 1, stop=verdict > 1)


class Counter:
    """Counts what a run has read; a resumed run goes on counting.

    Attributes:
      read: the tokens and FLOPs so far.
    """

    def __init__(self, exp: Experiment, checkpointer: Checkpointer, start: int):
        self._exp, self._compiled, self._step = exp, {(exp.train_step(start), exp.feed.bucket(start))}, start
        # Without buckets, all batches are equal.
        before = checkpointer.extra(start).get("read") if start and exp.buckets else None
        self.read = throughput.Read(**before) if before else self._batch(None) * start

    @property
    def saved(self) -> dict[str, Any]:
        """What a checkpoint stores."""
        return {"read": dataclasses.asdict(self.read)} if self._exp.buckets else {}

    def wrap(self, say: Callable[[str], None], paused: Callable[[], contextlib.AbstractContextManager[None]]) -> Step:
        """Wraps the steps to count their batches, and to `say` when one is compiled for another length, in `paused`."""

        def counted(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
            size = self._exp.buckets.of_batch(batch) if self._exp.buckets else None
            step = self._exp.train_step(self._step)
            if (step, size) not in self._compiled:
                phase = f" from step {self._step + 1} on" if self._exp.phases else ""
                rows = f" for rows of {size} tokens" if size else ""
                with paused():
                    say(f"step       {compile_ahead(step, state, batch).result()}{rows}{phase}")
                self._compiled.add((step, size))
            self.read = self.read + self._batch(size)
            self._step += 1
            return step(state, batch)

        return counted

    @functools.cached_property
    def _batch(self) -> Callable[[int | None], throughput.Read]:
        """What a batch of rows of a length reads; None: an uncut one."""
        exp, rows = self._exp, self._exp.config.data.batch
        return functools.cache(lambda size: throughput.Read(tokens=exp.row_tokens(size), flops=exp.flops(size)) * rows)


def meter(exp: Experiment) -> throughput.Meter:
    """Prints the devices' peak and returns a meter of throughput relative to it."""
    flops = exp.flops() / exp.row_tokens()
    peak = throughput.peak(jax.devices()[0])
    report.say(f"compute    {flops:.3g} FLOPs per token; peak {peak.flops:.3g} FLOP/s per device ({peak.source})")
    steps, devices = exp.config.train.steps, jax.device_count()
    return throughput.Meter(throughput.MeterConfig(steps=steps, devices=devices, peak_flops=peak.flops))
