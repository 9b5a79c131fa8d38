"""Phases of a run with gradual unfreezing, each of which trains one further group of parameters (`adapt.gradual`).

The state has all parameters, and the state of an optimizer for each group, in every phase; so checkpoints and whatever
reads them know of no phases. Each phase has a train step of its own: it stores the trained layers apart from the frozen
ones, which are constants to the gradient, as does everything below them, and writes only the trained ones back.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from lm_jax.adapt.config import AdaptConfig
from lm_jax.core.config import InputError
from lm_jax.core.sums import Sums
from lm_jax.core.trees import Params, flatten, merge, unflatten
from lm_jax.models import layerwise
from lm_jax.models.stack.layers import APART
from lm_jax.objectives.base import Batch
from lm_jax.objectives.roles import Models
from lm_jax.train.optimizers import OptimizerConfig, clipping
from lm_jax.train.optimizers import build_optimizer as optimizer_of
from lm_jax.train.state import TrainState
from lm_jax.train.step import Step


@dataclasses.dataclass(frozen=True)
class Phases:
    """The phases of a run: in phase k, the groups 0 to k of its parameters are trained.

    Attributes:
      groups: the group of each trained parameter by path, role included; of stacked layers an array, one of each layer.
      starts: the number of finished steps at which each phase begins; 0 for the first one.
    """

    groups: Mapping[str, int | np.ndarray]
    starts: tuple[int, ...]

    def at(self, step: int) -> int:
        """The phase of the step after `step` finished ones."""
        return bisect.bisect_right(self.starts, step) - 1

    def divide(self, params: Params, phase: int) -> tuple[Params, Params]:
        """The parameters by role that a phase trains, its layers apart from the others, and the frozen ones."""
        trained, frozen = {}, {}
        for path, leaf in flatten(params).items():
            group, first = self.groups[path], self._first(path, phase)
            if first == 0:
                trained[path] = leaf
            elif not isinstance(group, np.ndarray) or first == len(leaf):
                frozen[path] = leaf
            else:
                trained[_apart(path)], frozen[path] = leaf[first:], leaf[:first]
        return unflatten(trained), unflatten(frozen)

    def join(self, params: Params, trained: Params, phase: int) -> Params:
        """The parameters by role with those that a phase trains replaced; all others have the same bits."""
        leaves, new = flatten(params), flatten(trained)
        for path, leaf in leaves.items():
            if path in new:
                leaves[path] = new[path]
            elif _apart(path) in new:
                leaves[path] = leaf.at[self._first(path, phase) :].set(new[_apart(path)])
        return unflatten(leaves)

    def select(self, tree: Params, group: int) -> Params:
        """The part of a group of a tree of parameters, whole or of a phase that trains it."""
        leaves = flatten(tree)
        selected = {}
        for path, groups in self.groups.items():
            leaf = leaves.get(path, leaves.get(_apart(path)))
            if leaf is None:
                continue
            if not isinstance(groups, np.ndarray):
                if groups == group:
                    selected[path] = leaf
            elif len(rows := np.flatnonzero(groups == group)):
                # Counted from the last layer, which is the last one of both.
                offset = leaf.shape[0] - len(groups)
                selected[path] = leaf[offset + rows[0] : offset + rows[-1] + 1]
        return unflatten(selected)

    def merge(self, like: Params, parts: Sequence[Params]) -> Params:
        """The inverse of `select`: joins the parts of the groups of a phase to a tree with the paths of `like`."""
        groups, merged = [flatten(tree) for tree in parts], {}
        for path in flatten(like):
            whole = path.replace(f"/{APART}/", "/", 1)
            leaves = [group[whole] for group in reversed(groups) if whole in group]
            merged[path] = leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves)
        return unflatten(merged)

    def rows(self, path: str, factor: Any, group: int) -> Any:
        """The part of a group of a factor that broadcasts against a parameter."""
        groups = self.groups.get(path)
        if not isinstance(groups, np.ndarray) or not isinstance(factor, np.ndarray) or len(factor) == 1:
            return factor
        return factor[groups == group]

    def _first(self, path: str, phase: int) -> int:
        """The first of the stacked layers that a phase trains; for other parameters 0, or 1 if it is frozen."""
        return int(np.sum(np.asarray(self.groups[path]) > phase))


def phases(models: Models, config: AdaptConfig, steps: int) -> Phases:
    """The phases of a run of `steps` steps.

    Raises:
      InputError: the run ends before all parameters are trained, or `config.steps` has another length.
    """
    trained = flatten(models.split(models.shapes)[0])
    distances: dict[str, Any] = dict.fromkeys(trained, 0)
    for role, model in models.models.items():
        for path, distance in layerwise.distances(model.module.config, model.axes).items():
            if f"{role}/{path}" in trained:
                distances[f"{role}/{path}"] = distance
    values = sorted({int(value) for each in distances.values() for value in np.ravel(each)})
    number = lambda each: np.searchsorted(values, each) if isinstance(each, np.ndarray) else values.index(each)
    further = len(values) - 1
    starts = config.steps or tuple(config.every * (group + 1) for group in range(further))
    if len(starts) != further:
        raise InputError(
            f"config.adapt.steps has {len(starts)} numbers, but {further} groups of parameters follow the first one; "
            f"give {further} numbers, or config.adapt.every instead"
        )
    if starts and starts[-1] >= steps:
        raise InputError(
            f"config.adapt.{'steps' if config.steps else 'every'} has the embeddings trained after step {starts[-1]}, "
            f"but the run ends at step {steps}; lower it{'' if config.steps else f' to {max(steps - 1, 0) // further}'}"
            ", or raise config.train.steps or .epochs"
        )
    return Phases({path: number(each) for path, each in distances.items()}, (0, *starts))


def build_optimizer(
    phases: Phases,
    phase: int,
    config: OptimizerConfig,
    steps: int,
    axes: Any,
    factors: Mapping[str, float | np.ndarray],
) -> optax.GradientTransformation:
    """Builds an optimizer for each of the groups that a phase trains; they clip by one norm.

    The moments and the counts of a group begin when it is first trained, so that Adam corrects their bias as in a new
    run; the learning rate is that of the run.

    Args:
      phases: the phases.
      phase: number of the phase.
      config: the optimizer's settings.
      steps: updates of the run.
      axes: a tuple of logical axes for every parameter.
      factors: factors on the learning rate by path, as for `optimizers.build_optimizer`.
    """
    optimizers, single = [], dataclasses.replace(config, clip=0.0)
    for group, start in enumerate(phases.starts[: phase + 1]):
        own = {path: phases.rows(path, factor, group) for path, factor in factors.items()}
        optimizers.append(optimizer_of(single, steps, axes, own, start))

    def init(params: Any) -> tuple[Any, ...]:
        return tuple(each.init(phases.select(params, group)) for group, each in enumerate(optimizers))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        results = [
            each.update(phases.select(updates, group), state[group], phases.select(params, group))
            for group, each in enumerate(optimizers)
        ]
        return phases.merge(updates, [tree for tree, _ in results]), tuple(after for _, after in results)

    transform = optax.GradientTransformation(init, update)
    return optax.chain(clipping(config.clip), transform) if config.clip else transform


def in_phase(step: Step, phases: Phases, phase: int, *, clipped: bool) -> Step:
    """The train step of a phase, for a state with all parameters and the optimizer state of all groups.

    Args:
      step: a train step with the optimizer of the phase.
      phases: the phases.
      phase: its number.
      clipped: whether its optimizer clips.
    """

    def run(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        params, frozen = phases.divide(state.params, phase)
        averaged = None if state.averaged is None else phases.divide(state.averaged, phase)[0]
        # Clipping has a state of its own before that of the groups.
        *clip, groups = state.opt_state if clipped else (state.opt_state,)
        join = lambda states: (*clip, states) if clipped else states
        part: Any = state
        part = part.replace(
            params=params,
            frozen=merge(frozen, state.frozen),
            averaged=averaged,
            opt_state=join(groups[: phase + 1]),
        )
        new: Any
        new, sums = step(part, batch)
        updated = new.opt_state[-1] if clipped else new.opt_state
        averaged = None if state.averaged is None else phases.join(state.averaged, new.averaged, phase)
        params = phases.join(state.params, new.params, phase)
        opt_state = join((*updated, *groups[phase + 1 :]))
        return new.replace(params=params, frozen=state.frozen, averaged=averaged, opt_state=opt_state), sums

    return run


def _apart(path: str) -> str:
    """Where the last layers of a parameter `ROLE/STACK/...` are."""
    role, stack, *rest = path.split("/")
    return "/".join([role, stack, APART, *rest])
