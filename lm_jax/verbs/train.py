"""`lm-jax train`: from a recipe to a trained model in a work directory; the same command goes on where it stopped."""

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
from lm_jax.experiment import Experiment, ExperimentConfig
from lm_jax.flags import Request, need_config, need_workdir
from lm_jax.train import compilation, curves, metrics, writers
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.verbs import forking, report, training
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
    inherited: Params | None,
    fork: str | None,
    changed: Sequence[str],
) -> None:
    """Trains from the newest state, or from the first one, of a directory that is this process's own."""
    # Compiled while the state is drawn or read.
    step = exp.train_step()
    compiling = compilation.ahead(step, exp.state_like, exp.batch_like)
    if jax.process_count() > 1:
        compiling.result()
    state = workdirs.first_state(exp, workdir, checkpointer, inherited, changed)
    if inherited is not None:
        report.say(f"parameters from {fork}")
        workdirs.inherit(Path(str(fork)), workdir)
    batches = exp.feed.batches(int(state.step))
    batches = itertools.chain([next(batches)], batches)
    report.say(f"step       {compiling.result()}")
    # After compiling, which would take the processor from a measured peak.
    training.train(exp, step, state, batches, workdir, checkpointer, training.meter(exp))
