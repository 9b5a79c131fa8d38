"""`lm-jax train`: trains the model of a recipe in a work directory; the same command resumes where it stopped."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from lm_jax import experiment
from lm_jax.core.config import InputError
from lm_jax.core.trees import Params
from lm_jax.data import tokenizers
from lm_jax.experiment import Experiment, ExperimentConfig, automatic, epochs
from lm_jax.flags import Request, need_config, need_workdir
from lm_jax.train import best, compilation, curves, metrics, writers
from lm_jax.train.base import STORES
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.verbs import forking, report, seeds, training
from lm_jax.verbs import workdir as workdirs


def run(request: Request) -> int:
    """Trains to the last step of the recipe; with `--json`, messages go to standard error."""
    workdir, several = Path(need_workdir(request)), need_config(request).train.seeds
    with contextlib.redirect_stdout(sys.stderr) if request.json else contextlib.nullcontext():
        summary = seeds.run(request, workdir, _run) if several else _run(request, workdir)
    if request.json and several:
        report.document(summary)
    elif request.json:
        path = workdir / metrics.FILE
        entries = metrics.read(workdir) if path.exists() else []
        report.document({"workdir": str(workdir), **{key: value for entry in entries for key, value in entry.items()}})
    return 0


def _run(request: Request, workdir: Path) -> None:
    config = need_config(request)
    # Bad input is refused before the first file is written.
    writers.check(config.log.writers)
    if config.evaluate.patience and "jsonl" not in config.log.writers:
        raise InputError("config.evaluate.patience reads metrics.jsonl; add jsonl to config.log.writers")
    changed = workdirs.changes(config, workdir)
    workdirs.check_writable(workdir)
    report.say(f"recipe     {request.recipe}" + (", changed:" if request.changed else ", unchanged"))
    for line in request.changed:
        report.say(f"  {line}")
    options = {name: getattr(config.checkpoint, name) for name in ("keep", "asynchronous", "store")}
    with Checkpointer(workdir / "checkpoints", **options) as checkpointer:
        saved = checkpointer.latest()
        if request.fork is not None and saved is None and not Checkpointer(Path(request.fork) / "checkpoints").steps():
            raise InputError(f"--fork={request.fork} has no checkpoint; give the --workdir of a run that has one")
        with report.Progress() as progress:
            exp = experiment.prepare(config, progress, _inherited_tokenizer(config, workdir, saved, request.fork))
        for line in exp.warnings():
            report.warn(line)
        exp, why = automatic.chosen(exp)
        exp = epochs.scheduled(exp)
        exp.check()
        if saved is not None:
            workdirs.check_same_data(exp, workdir, saved, checkpointer.extra(saved))
        report.say(report.setup(exp, workdir) + (f"\n{why}" if why else ""))
        if saved is not None and (finished := _finished(exp, workdir, saved)):
            report.say(finished)
            return
        forked = request.fork is not None and saved is None
        inherited = forking.parameters(exp, Path(str(request.fork))) if forked else None
        with workdirs.owned(workdir):
            _train(exp, workdir, checkpointer, inherited, request.fork, changed)
    if jax.process_index() == 0 and "jsonl" in config.log.writers:
        curves.plot(workdir, workdir / "plots" / "curves.png")


def _finished(exp: Experiment, workdir: Path, saved: int) -> str:
    """Returns why a run with a checkpoint of the step `saved` does not continue; empty if it does."""
    config, chosen = exp.config, best.read(workdir, exp.config.evaluate.best, saved)
    if saved >= config.train.steps:
        key = "config.train.epochs" if config.train.epochs else "config.train.steps"
        return f"{workdir} is at step {saved} of {config.train.steps}; raise {key} to resume"
    if config.evaluate.patience and chosen.stale >= config.evaluate.patience:
        return f"{workdir} stopped after step {saved}: {chosen.summary()}; raise config.evaluate.patience to resume"
    return ""


def _inherited_tokenizer(
    config: ExperimentConfig, workdir: Path, saved: int | None, fork: str | None
) -> tokenizers.Tokenizer | None:
    """Returns the tokenizer of the run to resume or to fork from; None if the configuration decides.

    A resumed run keeps its tokenizer, because a tokenizer trained on a changed text would give other ids. If
    `config.data.tokenizer.path` is set, that tokenizer is loaded instead, and compared with the run's.
    """
    if saved is None:
        return None if fork is None else forking.tokenizer(config.data.tokenizer, Path(fork))
    if config.data.tokenizer.path or not tokenizers.is_saved(workdir / "tokenizer"):
        return None
    return tokenizers.load(workdir / "tokenizer")


def _train(
    exp: Experiment,
    workdir: Path,
    checkpointer: Checkpointer,
    inherited: Params | None,
    fork: str | None,
    changed: Sequence[str],
) -> None:
    """Trains from the newest or the initial state, in a directory that this process has locked."""
    # The step is compiled while the state is initialised or restored.
    finished = checkpointer.latest() or 0
    step, first = exp.train_step(finished), exp.feed.bucket(finished)
    compiling = compilation.compile_ahead(step, exp.state_like, exp.batch_of(first))
    if jax.process_count() > 1:
        compiling.result()
    state = workdirs.first_state(exp, workdir, checkpointer, inherited, changed)
    if inherited is not None:
        report.say(f"parameters from {fork}")
        workdirs.inherit(Path(str(fork)), workdir)
    if not checkpointer.steps():
        forked = inherited is not None and STORES[exp.config.checkpoint.store] and bool(state.frozen)
        base = forking.base(exp, checkpointer, Path(str(fork)), state.frozen) if forked else None
        checkpointer.rest_on(base)
        if base is not None:
            report.say(report.base(base, fork, state.frozen))
    batches = exp.feed.batches(int(state.step))
    batches = itertools.chain([next(batches)], batches)
    report.say(f"step       {compiling.result()}" + (f" for rows of {first} tokens" if first else ""))
    # The meter measures the device's peak, which a compilation at the same time would lower.
    training.train(exp, state, batches, workdir, checkpointer, training.meter(exp))
