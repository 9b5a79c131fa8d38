"""`lm-jax train`: from a recipe to a trained model in a work directory; the same command goes on where it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import platform
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import experiment
from lm_jax.core import config as configs
from lm_jax.core.config import InputError
from lm_jax.data import atomic
from lm_jax.evaluate.language_modelling import LanguageModelling
from lm_jax.experiment import Experiment, ExperimentConfig
from lm_jax.flags import Request, need_config, need_workdir
from lm_jax.models.flops import training_flops
from lm_jax.train import compilation, curves, metrics, throughput, writers
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.train.logging import Logger
from lm_jax.train.loop import Trainer
from lm_jax.train.profile import Profiler
from lm_jax.train.state import TrainState
from lm_jax.train.step import Step
from lm_jax.train.watchdog import Watchdog
from lm_jax.verbs import report
from lm_jax.verbs.runs import ORIGIN, restore_weights

# What may differ between the two runs of one work directory: nothing that changes model, data order or objective.
FREE = (
    "train.steps",
    "train.timeout_s",
    "evaluate",
    "checkpoint",
    "log",
    "mesh",
    "data.workers",
    "data.threads",
    "data.prefetch",
    "data.store",
)


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
    _check_same_run(config, workdir)
    if request.fork is not None and not Checkpointer(Path(request.fork) / "checkpoints").steps():
        raise InputError(f"--fork={request.fork} holds no checkpoint; give the --workdir of a run that has one")
    report.say(f"recipe     {request.recipe}" + (", but" if request.changed else ", as it is"))
    for line in request.changed:
        report.say(f"  {line}")
    with report.Progress() as progress:
        exp = experiment.prepare(config, progress)
    # Everything that can be wrong with the configuration is found before the first file is written.
    exp.check()
    writers.check(config.log.writers)
    write_workdir(exp, workdir)
    if request.fork is not None:
        _inherit(Path(request.fork), workdir)
    report.say(report.setup(exp, workdir))
    with Checkpointer(
        workdir / "checkpoints", keep=config.checkpoint.keep, asynchronous=config.checkpoint.asynchronous
    ) as checkpointer:
        newest = max(checkpointer.steps(), default=0)
        if newest >= config.train.steps and not checkpointer.verify(newest):
            report.say(f"{workdir} is at step {newest} of {config.train.steps}; raise config.train.steps to go on")
            return
        # Compiled while the state is drawn or read.
        sample, step = next(exp.ordered("train", 1)), exp.train_step()
        compiling = compilation.ahead(step, exp.state_like, _global(exp, sample))
        if jax.process_count() > 1:
            compiling.result()
        state = _first_state(exp, checkpointer, request.fork)
        batches = exp.batches(int(state.step))
        batches = itertools.chain([next(batches)], batches)
        report.say(f"step       {compiling.result()}")
        # After compiling, which would take the processor from a measured peak.
        meter = _meter(exp, sample)
        train(exp, step, state, batches, workdir, checkpointer, meter)
    if jax.process_index() == 0 and "jsonl" in config.log.writers:
        curves.plot(workdir, workdir / "plots" / "curves.png")


def _inherit(fork: Path, workdir: Path) -> None:
    """What a forked run knows of the checkpoint that it was imported from, so that this one can be exported too."""
    origin, own = fork / ORIGIN, workdir / ORIGIN
    if jax.process_index() == 0 and origin.is_dir() and not own.exists():
        partial = own.with_name(f"{own.name}.partial-{uuid.uuid4().hex}")
        shutil.copytree(origin, partial)
        os.replace(partial, own)


def _global(exp: Experiment, sample: dict[str, np.ndarray]) -> dict[str, jax.ShapeDtypeStruct]:
    """What a batch of all hosts looks like, from this host's part of one."""
    sharding, batch = exp.layout.batch_sharding(), exp.config.data.batch
    return {
        name: jax.ShapeDtypeStruct(
            (batch, *array.shape[1:]), jax.dtypes.canonicalize_dtype(array.dtype), sharding=sharding
        )
        for name, array in sample.items()
    }


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
            evaluate=evaluate,
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


def _first_state(exp: Experiment, checkpointer: Checkpointer, fork: str | None) -> TrainState:
    """The newest intact state of the run, the parameters of a forked one, or freshly drawn parameters."""
    if checkpointer.steps():
        state, extra = checkpointer.restore(exp.state_like)
        if exp.store is not None and extra["data_fingerprint"] != exp.store.fingerprint:
            raise InputError(
                f"the text of {exp.config.data.name} has changed since step {int(state.step)} (fingerprint "
                f"{extra['data_fingerprint'][:8]}, now {exp.store.fingerprint[:8]}); restore it, or use another "
                "--workdir"
            )
        report.say(f"resuming from step {int(state.step)}")
        return state
    state = exp.fresh_state()
    if fork is not None:
        other = Checkpointer(Path(fork) / "checkpoints")
        params = restore_weights(other, exp.state_like.params)
        averaged = None if state.averaged is None else jax.tree.map(jnp.copy, params)
        state = state.replace(params=params, averaged=averaged)  # type: ignore[attr-defined]
        report.say(f"parameters from {fork}")
    return state


def _check_same_run(config: ExperimentConfig, workdir: Path) -> None:
    """Refuses a work directory that holds another run."""
    path = workdir / "config.json"
    if not path.exists():
        return
    before, after = json.loads(path.read_text()), experiment.as_json(config)
    changed = [
        line
        for line in configs.differences(before, after)
        if not any(line.startswith(f"config.{free}.") or line.startswith(f"config.{free}:") for free in FREE)
    ]
    if changed:
        raise InputError(
            f"{workdir} holds a run with another configuration ({'; '.join(changed[:4])}); use another --workdir, or "
            f"--fork={workdir} with a new --workdir to start from its parameters"
        )


def write_workdir(exp: Experiment, workdir: Path) -> None:
    """What a reader of the run needs: its configuration, its surroundings, its parameters, its tokenizer."""
    if jax.process_index() != 0:
        return
    workdir.mkdir(parents=True, exist_ok=True)
    exp.tokenizer.save(workdir / "tokenizer")
    atomic.write_json(workdir / "environment.json", environment())
    atomic.write_bytes(workdir / "model_info.txt", report.parameters(exp.model, exp.layout).encode())
    atomic.write_json(workdir / "config.json", dataclasses.asdict(exp.config))


def environment() -> dict[str, Any]:
    """Versions and devices of this process."""
    import flax
    import optax
    import orbax.checkpoint

    import lm_jax

    packages = {"lm_jax": lm_jax, "jax": jax, "flax": flax, "optax": optax, "orbax-checkpoint": orbax.checkpoint}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: module.__version__ for name, module in packages.items()},
        "devices": [f"{device.platform} {device.device_kind}" for device in jax.devices()],
        "processes": jax.process_count(),
    }
