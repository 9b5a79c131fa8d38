"""A trained run as the reading verbs see it: its experiment and the parameters of one of its checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lm_jax import experiment, flags
from lm_jax.core.config import InputError
from lm_jax.core.trees import Params
from lm_jax.experiment import Experiment
from lm_jax.flags import LATEST, Request, need_workdir
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.train.state import Weights
from lm_jax.verbs import workdir as workdirs


def open_run(request: Request) -> Experiment:
    """The experiment of `--workdir`, with `--config.key=value` words applied and without its text."""
    if request.recipe is not None:
        raise InputError(f"{request.verb} reads its configuration from --workdir; leave out --config={request.recipe}")
    exp = experiment.load(need_workdir(request))
    if not request.overrides:
        return exp
    from ml_collections import ConfigDict

    changed = flags.override(experiment.complete(ConfigDict(experiment.as_json(exp.config))), request.overrides)
    return dataclasses.replace(exp, config=experiment.parse(changed))


def restore(request: Request, exp: Experiment) -> tuple[int | None, Weights]:
    """The step of `--checkpoint` (or the best one, or the newest intact one) and its weights."""
    folder = Path(need_workdir(request)) / "checkpoints"
    checkpointer = Checkpointer(folder)
    if not checkpointer.steps():
        raise InputError(f"{folder} holds no checkpoint yet; run lm-jax train with the same --workdir first")
    chosen = {None: _preferred, LATEST: Checkpointer.latest}.get(request.checkpoint)
    step = chosen(checkpointer) if chosen else request.checkpoint
    workdirs.check_tokenizer(exp, folder.parent, step, checkpointer.extra(step))
    return step, restore_weights(checkpointer, exp.state_like.weights, step)


def restore_product(request: Request, exp: Experiment) -> tuple[int | None, Params]:
    """The same step, and the parameters of the product."""
    step, weights = restore(request, exp)
    return step, exp.product_params(weights)


def restore_weights(checkpointer: Checkpointer, like: Weights, step: int | None = None) -> Weights:
    """The weights of a checkpoint to evaluate or to start from: the averaged parameters where it has them."""
    step = checkpointer.latest() if step is None else step
    averaged = step is not None and any(path.startswith("averaged/") for path in checkpointer.describe(step))
    name = "averaged" if averaged else "params"
    wanted = {name: like.params, "frozen": like.frozen, "carry": {"shared": like.shared}}
    restored, _ = checkpointer.restore(wanted, step, where=f"({name}|frozen|carry/shared)/.*")
    return Weights(restored[name], restored["frozen"], restored["carry"]["shared"])


def _preferred(checkpointer: Checkpointer) -> int | None:
    best = checkpointer.best()
    return best if best is not None and not checkpointer.verify(best) else checkpointer.latest()
