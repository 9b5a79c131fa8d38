"""The state that a run begins with: its newest checkpoint, the parameters of another run, or freshly drawn ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from lm_jax import experiment
from lm_jax.core.trees import Params
from lm_jax.experiment import Experiment
from lm_jax.train import optimizers
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.train.state import TrainState
from lm_jax.verbs import report
from lm_jax.verbs import workdir as workdirs


def state(
    exp: Experiment, workdir: Path, checkpointer: Checkpointer, inherited: Params | None, changed: Sequence[str]
) -> TrainState:
    """The newest intact state of the run, the inherited parameters, or freshly drawn ones.

    Only once the state is there are the files of the run written, or what has changed about it.
    """
    if checkpointer.steps():
        restored = _restored(exp, checkpointer)
        report.say(f"resuming from step {int(restored.step)}")
        for line in changed:
            report.say(f"  since changed: {line}")
        workdirs.note_changes(exp, workdir, int(restored.step), changed)
        return restored
    first = exp.fresh_state()
    if inherited is not None:
        params, frozen = exp.models.split(inherited)
        averaged = None if first.averaged is None else jax.tree.map(jnp.copy, params)
        first = first.replace(params=params, frozen=frozen, averaged=averaged)  # type: ignore[attr-defined]
    workdirs.write(exp, workdir)
    return first


def _restored(exp: Experiment, checkpointer: Checkpointer) -> TrainState:
    """The newest intact state of the run; the clipping of gradients may have been switched on or off since."""
    # Of the checkpoint, not of the directory: a run may be killed between noting a change and its next checkpoint.
    before = experiment.parse(checkpointer.extra()["config"]).optimizer
    clip = (before.clip, exp.config.optimizer.clip)
    clipped = dataclasses.replace(exp.config.optimizer, clip=before.clip)
    earlier = dataclasses.replace(exp, config=dataclasses.replace(exp.config, optimizer=clipped))
    restored, _ = checkpointer.restore(earlier.state_like)
    return restored.replace(opt_state=optimizers.reclipped(restored.opt_state, *clip))
