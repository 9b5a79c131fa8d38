"""Loads a run for the verbs that read one: its experiment and the parameters of a checkpoint."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from pathlib import Path

from ml_collections import ConfigDict

from lm_jax import experiment, flags
from lm_jax.core.config import InputError, Tree, lookup
from lm_jax.core.trees import Params, flatten, merge, unflatten
from lm_jax.experiment import Experiment
from lm_jax.flags import LATEST, Request, need_workdir
from lm_jax.objectives import ObjectiveConfig
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.train.state import Weights
from lm_jax.verbs import adapters
from lm_jax.verbs import workdir as workdirs

# The usual objective of a kind of model.
PRETRAINING = {"decoder": "causal", "encoder": "masked", "encoder_decoder": "span"}


def open_run(request: Request) -> Experiment:
    """Returns the experiment of `--workdir` with `--config.KEY=VALUE` overrides applied, without its text."""
    if request.recipe is not None:
        raise InputError(f"{request.verb} reads its configuration from --workdir; leave out --config={request.recipe}")
    exp = experiment.load(need_workdir(request))
    if request.overrides:
        changed = flags.override(experiment.complete(ConfigDict(experiment.as_json(exp.config))), request.overrides)
        exp = dataclasses.replace(exp, config=experiment.parse(changed))
    if request.adapter:
        if request.role:
            raise InputError(
                f"--adapter={request.adapter} is for the product of a run; leave out --role={request.role}, or export "
                "that model and import it as a run of its own"
            )
        return adapters.opened(exp, Path(need_workdir(request)), Path(request.adapter))
    return exp


def restore(request: Request, exp: Experiment) -> tuple[int | None, Weights]:
    """Returns the step of `--checkpoint` (default: the best, else the newest intact) and its weights."""
    checkpointer, step = _checkpoint(request, exp)
    params, frozen = exp.models.split(_params(request, exp, checkpointer, step, *exp.models.roles))
    if not exp.objective.carry.shared:
        return step, Weights(params, frozen)
    like = {"carry": {"shared": exp.state_like.carry.shared}}
    restored, _ = checkpointer.restore(like, step, where="carry/shared/.*")
    return step, Weights(params, frozen, restored["carry"]["shared"])


def one_model(request: Request, exp: Experiment) -> Experiment:
    """Returns the experiment whose product is the model of `--role`; without the flag, `exp` itself.

    Raises:
      InputError: the objective has no such role.
    """
    role = request.role or exp.models.product
    if role == exp.models.product:
        return exp
    model = lookup(exp.models.models, role, "--role").module.config
    objective = ObjectiveConfig(name=PRETRAINING[model.kind])
    return Experiment(dataclasses.replace(exp.config, model=model, models=Tree(), objective=objective), exp.tokenizer)


def restore_model(request: Request, exp: Experiment) -> tuple[int | None, Params]:
    """Returns the step as `restore` does, and the parameters of `--role` (default: the product).

    They include the shared parameters; those that an adaptation has added are folded into the others.
    """
    step, params = restore_role(request, exp)
    return step, exp.models.models[request.role or exp.models.product].merge(params)


def restore_role(request: Request, exp: Experiment) -> tuple[int | None, Params]:
    """Returns the same as `restore_model`, with added parameters as they are."""
    checkpointer, step = _checkpoint(request, exp)
    role = request.role or exp.models.product
    return step, exp.models.parameters(role, _params(request, exp, checkpointer, step, role))


def _params(request: Request, exp: Experiment, checkpointer: Checkpointer, step: int | None, *roles: str) -> Params:
    """Restores parameters by role, with those of `--adapter`."""
    if not request.adapter:
        return restore_params(checkpointer, exp.params_like(*roles), step)
    restored = lambda: restore_params(checkpointer, adapters.plain(exp).params_like(*roles), step)
    params = adapters.base((step, *roles), restored)
    return adapters.extended(exp, params, Path(need_workdir(request)), Path(request.adapter))


def restore_params(
    checkpointer: Checkpointer, like: Params, step: int | None = None, but: Collection[str] = ()
) -> Params:
    """Restores parameters by role from a checkpoint; averaged parameters if it has them.

    Raises:
      InputError: a parameter is missing, has another shape, or is neither in `like` nor in `but`.
    """
    step = checkpointer.latest() if step is None else step
    saved = {} if step is None else checkpointer.describe(step)
    trained = _trained(saved)
    targets = unflatten({stored(path, saved): leaf for path, leaf in flatten(like).items()})
    others = f"(?!({'|'.join(map(re.escape, but))})$)" if but else ""
    restored, _ = checkpointer.restore(targets, step, where=f"({trained}|frozen)/{others}({'|'.join(like)})/.*")
    return merge(*restored.values())


def stored(path: str, saved: Collection[str]) -> str:
    """Returns the path in a checkpoint of a parameter `ROLE/...`, given the paths of the checkpoint's leaves."""
    return f"{'frozen' if f'frozen/{path}' in saved else _trained(saved)}/{path}"


def _trained(saved: Collection[str]) -> str:
    """Where a checkpoint has the trained parameters to evaluate: their averages, if it has them."""
    return "averaged" if any(path.startswith("averaged/") for path in saved) else "params"


def _checkpoint(request: Request, exp: Experiment) -> tuple[Checkpointer, int | None]:
    folder = Path(need_workdir(request)) / "checkpoints"
    checkpointer = Checkpointer(folder)
    if not checkpointer.steps():
        raise InputError(f"{folder} has no checkpoint yet; run lm-jax train with the same --workdir first")
    choose = {None: _preferred, LATEST: Checkpointer.latest}.get(request.checkpoint)
    step = choose(checkpointer) if choose else request.checkpoint
    workdirs.check_tokenizer(exp, folder.parent, step, checkpointer.extra(step))
    return checkpointer, step


def _preferred(checkpointer: Checkpointer) -> int | None:
    best = checkpointer.best()
    return best if best is not None and not checkpointer.verify(best) else checkpointer.latest()
