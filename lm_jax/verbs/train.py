"""`lm-jax train`: from a recipe to a trained model in a work directory; the same command goes on where it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import experiment
from lm_jax.core.config import InputError
from lm_jax.data import tokenizers
from lm_jax.evaluate.language_modelling import LanguageModelling
from lm_jax.experiment import Experiment, ExperimentConfig
from lm_jax.flags import Request, need_config, need_workdir
from lm_jax.models.flops import training_flops
from lm_jax.train import compilation, curves, metrics, optimizers, throughput, writers
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.train.logging import Logger
from lm_jax.train.loop import Trainer
from lm_jax.train.profile import Profiler
from lm_jax.train.state import TrainState
from lm_jax.train.step import Step
from lm_jax.train.watchdog import Watchdog
from lm_jax.verbs import forking, report
from lm_jax.verbs import workdir as workdirs


def run(request: Request) -> int:
    """Trains to the end of the recipe; with `--json` what is said on the way goes to standard error."""
    workdir = Path(need_workdir(request))
    with contextlib.redirect_stdout(sys.stderr) if request.json else contextlib.nullcontext():
        _run(request, workdir)
    if request.json:
        path = workdir / metrics.FILE
        entries = metrics.read(workdir) if path.exists() else []
        report.document({"workdir": str(workdir), **{key: value for entry in entries for key, value in entry.items()}})
    return 0


def _run(request: Request, workdir: Path) -> None:
    """Prepares, trains and draws the curves."""
    config = need_config(request)
    # Everything that can be wrong is found before the first file is written.
    writers.check(config.log.writers)
    changed = workdirs.changes(config, workdir)
    workdirs.check_writable(workdir)
    if request.fork is not None and not Checkpointer(Path(request.fork) / "checkpoints").steps():
        raise InputError(f"--fork={request.fork} holds no checkpoint; give the --workdir of a run that has one")
    report.say(f"recipe     {request.recipe}" + (", but" if request.changed else ", as it is"))
    for line in request.changed:
        report.say(f"  {line}")
    with Checkpointer(
        workdir / "checkpoints", keep=config.checkpoint.keep, asynchronous=config.checkpoint.asynchronous
    ) as checkpointer:
        saved = checkpointer.latest()
        with report.Progress() as progress:
            exp = experiment.prepare(config, progress, _given_tokenizer(config, workdir, saved, request.fork))
        for line in exp.tokens.warnings():
            report.warn(line)
        exp.check()
        if saved is not None:
            workdirs.check_same_data(exp, workdir, saved, checkpointer.extra(saved))
        report.say(report.setup(exp, workdir))
        if saved is not None and saved >= config.train.steps:
            report.say(f"{workdir} is at step {saved} of {config.train.steps}; raise config.train.steps to go on")
            return
        forked = request.fork is not None and saved is None
        inherited = forking.parameters(exp, Path(str(request.fork))) if forked else None
        with workdirs.owned(workdir):
            _go_on(exp, workdir, checkpointer, inherited, request.fork, changed)
    if jax.process_index() == 0 and "jsonl" in config.log.writers:
        curves.plot(workdir, workdir / "plots" / "curves.png")


def _given_tokenizer(
    config: ExperimentConfig, workdir: Path, saved: int | None, fork: str | None
) -> tokenizers.Tokenizer | None:
    """The tokenizer that the parameters to go on from know; None where the configuration alone decides.

    A run that has a checkpoint keeps its own, because its text may have changed since, and with it what is trained on
    it. Where the configuration names a tokenizer, that one is read, and compared.
    """
    if saved is None:
        return None if fork is None else forking.tokenizer(config.data.tokenizer, Path(fork))
    if config.data.tokenizer.path or not tokenizers.is_saved(workdir / "tokenizer"):
        return None
    return tokenizers.load(workdir / "tokenizer")


def _go_on(
    exp: Experiment,
    workdir: Path,
    checkpointer: Checkpointer,
    inherited: Any,
    fork: str | None,
    changed: Sequence[str],
) -> None:
    """Trains from the newest state, or from the first one, of a directory that is this process's own."""
    # Compiled while the state is drawn or read.
    sample, step = next(exp.ordered("train", 1)), exp.train_step()
    compiling = compilation.ahead(step, exp.state_like, exp.layout.batch_like(sample, exp.config.data.batch))
    if jax.process_count() > 1:
        compiling.result()
    state = _first_state(exp, workdir, checkpointer, inherited, changed)
    if inherited is not None:
        report.say(f"parameters from {fork}")
        workdirs.inherit(Path(str(fork)), workdir)
    batches = exp.batches(int(state.step))
    batches = itertools.chain([next(batches)], batches)
    report.say(f"step       {compiling.result()}")
    # After compiling, which would take the processor from a measured peak.
    meter = _meter(exp, sample)
    train(exp, step, state, batches, workdir, checkpointer, meter)


def train(
    exp: Experiment,
    step: Step,
    state: TrainState,
    batches: Iterator[dict[str, np.ndarray]],
    workdir: Path,
    checkpointer: Checkpointer,
    meter: throughput.Meter,
) -> TrainState:
    """Runs the loop from `state` to the last step, logging to and saving in `workdir`."""
    config, layout, batch = exp.config, exp.layout, exp.config.data.batch
    start, tokens = int(state.step), batch * config.data.length
    evaluator, losses = validation(exp), dict[int, float]()
    extra = {
        "config": experiment.as_json(config),
        "data_fingerprint": exp.store.fingerprint if exp.store else "",
        "tokenizer_fingerprint": exp.tokenizer.fingerprint,
    }
    with (
        Logger(
            workdir,
            total=config.train.steps,
            start=start,
            every=config.log.every,
            names=config.log.writers,
            config=extra["config"],
            active=jax.process_index() == 0,
        ) as logger,
        Watchdog(config.train.timeout_s) as watchdog,
    ):
        profiler = Profiler(
            workdir, start=start, steps=config.log.profile, say=logger.say, active=jax.process_index() == 0
        )

        def tick(step: int) -> None:
            watchdog.beat(step)
            logger.tick(step)

        def log(step: int, updates: int, values: dict[str, float]) -> None:
            rate = {"learning_rate": float(exp.learning_rate(max(updates - 1, 0)))}
            values = {**values, **rate, "tokens": step * tokens, **meter.read(step, step * tokens)}
            logger.write(step, {f"train/{name}": value for name, value in values.items()})
            profiler.poll()

        def evaluate(step: int, params: Any) -> None:
            with meter.paused(), watchdog.paused():
                values = dict(evaluator.run(params))
            losses[step] = values["loss"]
            logger.write(step, {f"val/{name}": value for name, value in values.items()})

        def save(step: int, state: TrainState) -> None:
            with meter.paused():
                checkpointer.save(step, state, extra)
            best = checkpointer.best_mark()
            if step in losses and (not best or losses[step] < best["value"]):
                checkpointer.mark_best(step, losses[step])

        trainer = Trainer(
            step=profiler.wrap(step),
            put=lambda rows: layout.put(rows, batch),
            terms=exp.objective.terms,
            steps=config.train.steps,
            log_every=config.log.every,
            evaluate_every=config.evaluate.every,
            save_every=config.checkpoint.every,
            tick=tick,
            report=log,
            evaluate=evaluate if len(exp.rows("validation")) else None,
            save=save,
        )
        # The step is compiled and the first batch made: what comes is training.
        meter.start(start, start * tokens)
        try:
            return trainer.fit(state, batches)
        finally:
            profiler.close()


def _meter(exp: Experiment, batch: dict[str, np.ndarray]) -> throughput.Meter:
    """Rates against what the devices can do."""
    config = exp.config
    flops = training_flops(
        exp.model.module.config,
        exp.model.shapes,
        exp.model.axes,
        length=batch["tokens"].shape[1],
        read=batch["weights"].shape[1],
        source=batch["source"].shape[1] if "source" in batch else 0,
    )
    peak = throughput.peak(jax.devices()[0])
    report.say(
        f"compute    {flops / config.data.length:.3g} FLOPs a token; "
        f"peak {peak.flops:.3g} FLOP/s a device ({peak.source})"
    )
    return throughput.Meter(
        throughput.MeterConfig(
            steps=config.train.steps,
            devices=jax.device_count(),
            flops_per_token=flops / config.data.length,
            peak_flops=peak.flops,
        )
    )


def validation(exp: Experiment) -> LanguageModelling:
    """The evaluator of an experiment's validation part."""
    return LanguageModelling(
        objective=exp.objective,
        step=exp.eval_step(),
        batches={
            name: functools.partial(exp.ordered, "validation", exp.config.evaluate.batches, name)
            for name in exp.sources or ("",)
        },
        layout=exp.layout,
        rows=exp.config.data.batch,
        byte_lengths=exp.byte_lengths,
    )


def _first_state(
    exp: Experiment, workdir: Path, checkpointer: Checkpointer, inherited: Any, changed: Sequence[str]
) -> TrainState:
    """The newest intact state of the run, the inherited parameters, or freshly drawn ones.

    Only once the state is there are the files of the run written, or what has changed about it.
    """
    if checkpointer.steps():
        state = _restored(exp, checkpointer)
        report.say(f"resuming from step {int(state.step)}")
        for line in changed:
            report.say(f"  since changed: {line}")
        workdirs.note_changes(exp, workdir, int(state.step), changed)
        return state
    state = exp.fresh_state()
    if inherited is not None:
        averaged = None if state.averaged is None else jax.tree.map(jnp.copy, inherited)
        state = state.replace(params=inherited, averaged=averaged)  # type: ignore[attr-defined]
    workdirs.write(exp, workdir)
    return state


def _restored(exp: Experiment, checkpointer: Checkpointer) -> TrainState:
    """The newest intact state of the run; the clipping of gradients may have been switched on or off since."""
    # Of the checkpoint, not of the directory: a run may be killed between noting a change and its next checkpoint.
    before = experiment.parse(checkpointer.extra()["config"]).optimizer
    clip = (before.clip, exp.config.optimizer.clip)
    clipped = dataclasses.replace(exp.config.optimizer, clip=before.clip)
    earlier = dataclasses.replace(exp, config=dataclasses.replace(exp.config, optimizer=clipped))
    state, _ = checkpointer.restore(earlier.state_like)
    return state.replace(opt_state=optimizers.reclipped(state.opt_state, *clip))
