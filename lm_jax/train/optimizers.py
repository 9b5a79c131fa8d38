"""Optimizers, from Optax, over a table of names."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lm_jax.core.config import InputError, lookup, setting
from lm_jax.core.trees import map_named, matches, named_leaves
from lm_jax.models.axes import Axes, by_path, is_matrix, joined_shape, sides
from lm_jax.train import schedules
from lm_jax.train.schedules import ScheduleConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamWConfig:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101)."""

    b1: float = setting(0.9, at_least=0, below=1)
    b2: float = setting(0.95, at_least=0, below=1)
    epsilon: float = setting(1e-8, above=0)
    weight_decay: float = setting(0.1, at_least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdafactorConfig:
    """Adafactor (Shazeer and Stern 2018, arXiv:1804.04235); defaults are T5's."""

    decay_rate: float = setting(0.8, above=0, at_most=1)
    clipping_threshold: float = setting(1.0, above=0)
    scale_by_parameter: bool = True
    weight_decay: float = setting(0.0, at_least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LionConfig:
    """Lion (Chen et al. 2023, arXiv:2302.06675): learning rates 3-10 times below AdamW's, decay as much above."""

    b1: float = setting(0.9, at_least=0, below=1)
    b2: float = setting(0.99, at_least=0, below=1)
    weight_decay: float = setting(1.0, at_least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGDConfig:
    """Stochastic gradient descent with Nesterov's momentum (Sutskever et al. 2013)."""

    momentum: float = setting(0.9, at_least=0, below=1)
    nesterov: bool = True
    weight_decay: float = setting(0.0, at_least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MuonConfig:
    """Muon (Jordan et al. 2024, github.com/KellerJordan/Muon): momentum made orthogonal, for all kernels inside layers.

    Attributes:
      momentum: of the matrices, Nesterov's.
      iterations: Newton-Schulz iterations.
      rms: root mean square of an update at learning rate 1: with 0.2 it is as large as AdamW's, so that both share one
        learning rate (Liu et al. 2025, arXiv:2502.16982, section 2.2).
      weight_decay: of both.
      rest: everything else (embeddings, readout, biases, norms) is AdamW's, at `rest` x the learning rate.
      b1, b2, epsilon: of that AdamW.
    """

    momentum: float = setting(0.95, at_least=0, below=1)
    iterations: int = setting(5, at_least=1)
    rms: float = setting(0.2, above=0)
    weight_decay: float = setting(0.1, at_least=0)
    rest: float = setting(1.0, at_least=0)
    b1: float = setting(0.9, at_least=0, below=1)
    b2: float = setting(0.95, at_least=0, below=1)
    epsilon: float = setting(1e-8, above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleFreeConfig:
    """Schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682); give it `schedule.name="constant"` and a warmup.

    Attributes:
      interpolation: beta_1, where between the average and the fast point gradients are taken.
    """

    interpolation: float = setting(0.9, at_least=0, below=1)
    b2: float = setting(0.95, at_least=0, below=1)
    epsilon: float = setting(1e-8, above=0)
    weight_decay: float = setting(0.1, at_least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Multiplier:
    """A factor on the learning rate of the parameters whose path matches a regular expression."""

    pattern: str
    factor: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Which optimizer, and how it is driven; only the subtree of `name` is read.

    Attributes:
      learning_rate: the peak; of `rsqrt`, the value at the end of the warmup.
      no_decay: parameters whose path matches one of these regular expressions have no weight decay.
      clip: largest global norm of the gradients; 0 does not clip.
      multipliers: factors on the learning rate by path, such as `({"pattern": "embed", "factor": 0.1},)`; a parameter
        has the product of all that match.
    """

    name: str = "adamw"
    learning_rate: float = setting(1e-3, free=True, at_least=0)
    schedule: ScheduleConfig = setting(ScheduleConfig(), free=True)
    clip: float = setting(1.0, free=True, at_least=0)
    no_decay: tuple[str, ...] = ("bias$", "scale$", "norm")
    multipliers: tuple[Multiplier, ...] = setting((), free=True)
    adamw: AdamWConfig = AdamWConfig()
    adafactor: AdafactorConfig = AdafactorConfig()
    lion: LionConfig = LionConfig()
    sgd: SGDConfig = SGDConfig()
    muon: MuonConfig = MuonConfig()
    schedule_free: ScheduleFreeConfig = ScheduleFreeConfig()


Step = Callable[[float, optax.GradientTransformation], optax.GradientTransformation]


def _adamw(config: OptimizerConfig, step: Step, axes: Mapping[str, Axes]) -> optax.GradientTransformation:
    adam = config.adamw
    return step(adam.weight_decay, optax.scale_by_adam(adam.b1, adam.b2, adam.epsilon))


def _adafactor(config: OptimizerConfig, step: Step, axes: Mapping[str, Axes]) -> optax.GradientTransformation:
    factor = config.adafactor
    inner = [
        optax.scale_by_factored_rms(decay_rate=factor.decay_rate),
        optax.clip_by_block_rms(factor.clipping_threshold),
    ]
    if factor.scale_by_parameter:
        inner.append(optax.scale_by_param_block_rms())
    return step(factor.weight_decay, matrices(optax.chain(*inner), axes))


def _lion(config: OptimizerConfig, step: Step, axes: Mapping[str, Axes]) -> optax.GradientTransformation:
    return step(config.lion.weight_decay, optax.scale_by_lion(config.lion.b1, config.lion.b2))


def _sgd(config: OptimizerConfig, step: Step, axes: Mapping[str, Axes]) -> optax.GradientTransformation:
    sgd = config.sgd
    return step(sgd.weight_decay, optax.trace(sgd.momentum, sgd.nesterov) if sgd.momentum else optax.identity())


def _muon(config: OptimizerConfig, step: Step, axes: Mapping[str, Axes]) -> optax.GradientTransformation:
    from optax import contrib

    muon = config.muon
    plain = lambda tree: jax.tree.map(lambda leaf: contrib.MuonDimensionNumbers(), tree)
    # A semi-orthogonal [in, out] matrix has a root mean square of 1 / sqrt(max(in, out)).
    even: Any = lambda update, _: update * (max(update.shape) ** 0.5 * muon.rms)
    orthogonal = optax.chain(
        contrib.scale_by_muon(ns_steps=muon.iterations, beta=muon.momentum, weight_dimension_numbers=plain),
        optax.stateless_with_tree_map(even),
    )
    adam = optax.chain(optax.scale_by_adam(muon.b1, muon.b2, muon.epsilon), optax.scale(muon.rest))
    # Matrices of layers only: tables and readouts are looked up by row, which orthogonal updates do not suit.
    inside = lambda names: is_matrix(names) and "layers" in names and "experts" not in names
    labels = lambda params: map_named(lambda path, leaf: "matrix" if inside(axes[path]) else "rest", params)
    return step(muon.weight_decay, optax.partition({"matrix": matrices(orthogonal, axes), "rest": adam}, labels))


def _schedule_free(config: OptimizerConfig, step: Step, axes: Mapping[str, Axes]) -> optax.GradientTransformation:
    from optax import contrib

    free = config.schedule_free
    # Interpolation takes the place of momentum.
    fast = step(free.weight_decay, optax.scale_by_adam(0.0, free.b2, free.epsilon))
    rate = schedules.build_schedule(config.schedule, config.learning_rate, 1 << 30)
    # Optax counts updates from 1 here.
    return optax.GradientTransformation(*contrib.schedule_free(fast, lambda count: rate(count - 1), free.interpolation))


OPTIMIZERS = {
    "adamw": _adamw,
    "adafactor": _adafactor,
    "lion": _lion,
    "sgd": _sgd,
    "muon": _muon,
    "schedule_free": _schedule_free,
}


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate as a function of the number of updates made so far, in a run of `steps`."""
    return schedules.build_schedule(config.schedule, config.learning_rate, steps)


def build_optimizer(
    config: OptimizerConfig, steps: int, axes: Any, factors: Mapping[str, float] | None = None
) -> optax.GradientTransformation:
    """Clipping, the optimizer and its schedule as one transformation.

    Args:
      config: what to build.
      steps: updates of the run.
      axes: a tuple of logical axes for every parameter.
      factors: what the model asks for beside `config.multipliers`: path -> factor on the learning rate.
    """
    rate = schedule(config, steps)
    # In steps: schedule_free knows no end, and so no share of the way there.
    warmup = float(config.schedule.resolved(steps)[0])
    config = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, warmup=warmup))
    if config.name == "schedule_free" and config.schedule.name != "constant":
        raise InputError(
            f"config.optimizer.schedule.name is {config.schedule.name!r}; the optimizer schedule_free wants 'constant'"
        )

    def scaled(path: str, update: jax.Array) -> jax.Array:
        factor = 1.0
        for one in config.multipliers:
            factor *= one.factor if matches([one.pattern], path) else 1.0
        factor *= (factors or {}).get(path, 1.0)
        return update * factor if factor != 1 else update

    def step(weight_decay: float, direction: optax.GradientTransformation) -> optax.GradientTransformation:
        decayed = lambda params: map_named(lambda path, leaf: not matches(config.no_decay, path), params)
        return optax.chain(
            direction,
            optax.add_decayed_weights(weight_decay, decayed),
            optax.stateless(lambda updates, params: map_named(scaled, updates)),
            optax.scale_by_learning_rate(rate),
        )

    transform = lookup(OPTIMIZERS, config.name, "config.optimizer.name")(config, step, by_path(axes))
    return optax.chain(clipping(config.clip), transform) if config.clip else transform


def reclipped(opt_state: Any, before: float, after: float) -> Any:
    """The state of `build`'s optimizer after `config.clip` has changed: clipping has a place in it, but no numbers."""
    if bool(before) == bool(after):
        return opt_state
    return (optax.EmptyState(), opt_state) if after else opt_state[1]


def clipping(largest: float) -> optax.GradientTransformation:
    """Scales gradients so that their global norm is at most `largest` (Pascanu et al. 2013, section 3.2)."""

    def scaled(updates: Any, _: Any) -> Any:
        # One factor for all, which XLA multiplies with where it reads them; optax's division costs a pass of its own.
        factor = largest / jnp.maximum(optax.tree.norm(updates), largest)
        return jax.tree.map(lambda update: update * factor.astype(update.dtype), updates)

    return optax.stateless(scaled)


def matrices(inner: optax.GradientTransformation, axes: Mapping[str, Axes]) -> optax.GradientTransformation:
    """`inner` on one layer's matrices at a time, for optimizers that look at more than single numbers.

    Parameters of a stack are stored with a leading `layers` axis, those of experts with an `experts` axis after it, and
    projections with their heads apart. `inner` sees what a model written out layer by layer would hold: one matrix
    [in, out] per projection, layer and expert.

    Args:
      inner: the optimizer.
      axes: logical axes of every parameter by its path.
    """

    def split(tree: Any) -> dict[tuple[int, ...], dict[str, Any]]:
        """Matrices by the sizes of their leading axes; those without any come first."""
        groups: dict[tuple[int, ...], dict[str, Any]] = {(): {}}
        for path, leaf in named_leaves(tree):
            lead = leaf.shape[: len(sides(axes[path])[0])]
            groups.setdefault(lead, {})[path] = leaf.reshape(joined_shape(axes[path], leaf.shape))
        return groups

    def over(function: Callable[..., Any], lead: tuple[int, ...]) -> Callable[..., Any]:
        return functools.reduce(lambda inside, _: jax.vmap(inside), lead, function)

    def init(params: Any) -> Any:
        return tuple(over(inner.init, lead)(group) if group else () for lead, group in split(params).items())

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        done, states = dict[str, Any](), []
        groups = zip(split(updates).items(), split(params).values(), state, strict=True)
        for (lead, group), group_params, group_state in groups:
            if group:
                group, group_state = over(inner.update, lead)(group, group_state, group_params)
            done.update(group)
            states.append(group_state)
        return map_named(lambda path, leaf: done[path].reshape(leaf.shape), updates), tuple(states)

    return optax.GradientTransformation(init, update)
