"""Optimizers by name, built from Optax."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from lm_jax.core.config import InputError, lookup, setting
from lm_jax.core.trees import map_named, named_leaves, selects
from lm_jax.models import cpu
from lm_jax.models.axes import Axes, by_path, is_matrix, joined_shape, sides
from lm_jax.train import moments, schedules
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
    """Lion (Chen et al. 2023, arXiv:2302.06675): 3-10 times AdamW's weight decay, 1/3 to 1/10 of its learning rate."""

    b1: float = setting(0.9, at_least=0, below=1)
    b2: float = setting(0.99, at_least=0, below=1)
    weight_decay: float = setting(1.0, at_least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGDConfig:
    """Stochastic gradient descent with Nesterov momentum (Sutskever et al. 2013)."""

    momentum: float = setting(0.9, at_least=0, below=1)
    nesterov: bool = True
    weight_decay: float = setting(0.0, at_least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MuonConfig:
    """Muon (Jordan et al. 2024, github.com/KellerJordan/Muon): orthogonalised momentum for the kernels inside layers.

    AdamW updates the other parameters (embeddings, LM head, experts, biases, norms).

    Attributes:
      momentum: Nesterov momentum of the kernels.
      iterations: Newton-Schulz iterations.
      rms: root mean square of an update at learning rate 1; 0.2 matches AdamW's, so that both can share one learning
        rate (Liu et al. 2025, arXiv:2502.16982, section 2.2).
      weight_decay: of all parameters.
      rest: factor on the learning rate of the parameters that AdamW updates.
      b1, b2, epsilon: of AdamW.
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
    """Schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682); use with `schedule.name="constant"` and a warmup.

    Attributes:
      interpolation: beta_1; gradients are computed at y = (1 - beta_1) z + beta_1 x, where x is the average.
    """

    interpolation: float = setting(0.9, at_least=0, below=1)
    b2: float = setting(0.95, at_least=0, below=1)
    epsilon: float = setting(1e-8, above=0)
    weight_decay: float = setting(0.1, at_least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Multiplier:
    """A factor on the learning rate of parameters whose path matches a regular expression."""

    pattern: str
    factor: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer `name`, its learning rate and clipping; the settings of the other optimizers are ignored.

    Attributes:
      learning_rate: the peak; for `rsqrt`, the value at the end of the warmup.
      clip: maximum global norm of the gradients; 0: no clipping.
      no_decay: regular expressions; parameters with a matching path have no weight decay.
      multipliers: learning rate factors by path, such as `({"pattern": "embed", "factor": 0.1},)`; all matches apply.
      moments: how moments are stored, a key of `moments.FORMATS`: "float32", "bfloat16" or "int8", in 4, 2 or about 1
        byte each; not for adafactor, which factors them.
      layer_decay: factor on the learning rate from each layer to the one below it (`models.layerwise`), such as 0.8; 1:
        all layers have the same rate.
    """

    name: str = "adamw"
    learning_rate: float = setting(1e-3, free=True, at_least=0)
    schedule: ScheduleConfig = setting(ScheduleConfig(), free=True)
    clip: float = setting(1.0, free=True, at_least=0)
    no_decay: tuple[str, ...] = ("bias$", "scale$", "norm")
    moments: str = "float32"
    multipliers: tuple[Multiplier, ...] = setting((), free=True)
    layer_decay: float = setting(1.0, free=True, above=0, at_most=1)
    adamw: AdamWConfig = AdamWConfig()
    adafactor: AdafactorConfig = AdafactorConfig()
    lion: LionConfig = LionConfig()
    sgd: SGDConfig = SGDConfig()
    muon: MuonConfig = MuonConfig()
    schedule_free: ScheduleFreeConfig = ScheduleFreeConfig()


# (weight decay, update direction) -> the update: with weight decay, multipliers and learning rate.
Finish = Callable[[float, optax.GradientTransformation], optax.GradientTransformation]


def _adamw(config: OptimizerConfig, finish: Finish, axes: Mapping[str, Axes]) -> optax.GradientTransformation:
    adam = config.adamw
    return finish(adam.weight_decay, optax.scale_by_adam(adam.b1, adam.b2, adam.epsilon))


def _adafactor(config: OptimizerConfig, finish: Finish, axes: Mapping[str, Axes]) -> optax.GradientTransformation:
    adafactor = config.adafactor
    scale = optax.scale_by_factored_rms(decay_rate=adafactor.decay_rate)
    clip = optax.clip_by_block_rms(adafactor.clipping_threshold)
    relative = [optax.scale_by_param_block_rms()] if adafactor.scale_by_parameter else []
    return finish(adafactor.weight_decay, matrices(optax.chain(scale, clip, *relative), axes))


def _lion(config: OptimizerConfig, finish: Finish, axes: Mapping[str, Axes]) -> optax.GradientTransformation:
    return finish(config.lion.weight_decay, optax.scale_by_lion(config.lion.b1, config.lion.b2))


def _sgd(config: OptimizerConfig, finish: Finish, axes: Mapping[str, Axes]) -> optax.GradientTransformation:
    sgd = config.sgd
    return finish(sgd.weight_decay, optax.trace(sgd.momentum, sgd.nesterov) if sgd.momentum else optax.identity())


def _muon(config: OptimizerConfig, finish: Finish, axes: Mapping[str, Axes]) -> optax.GradientTransformation:
    from optax import contrib

    muon = config.muon
    dimensions = lambda tree: jax.tree.map(lambda leaf: contrib.MuonDimensionNumbers(), tree)
    # A semi-orthogonal [in, out] matrix has a root mean square of 1 / sqrt(max(in, out)).
    to_rms: Any = lambda update, _: update * (max(update.shape) ** 0.5 * muon.rms)
    by_iterations = lambda steps: contrib.scale_by_muon(
        ns_steps=steps, beta=muon.momentum, weight_dimension_numbers=dimensions
    )
    direction, normalised = by_iterations(muon.iterations), by_iterations(0)

    def orthogonalise(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if not cpu.on_cpu():
            return direction.update(updates, state, params)
        momentum: Any
        momentum, state = normalised.update(updates, state, params)
        return orthogonalised(momentum, state.ns_coeffs, muon.iterations), state

    orthogonal = optax.chain(
        optax.GradientTransformation(direction.init, orthogonalise), optax.stateless_with_tree_map(to_rms)
    )
    adam = optax.chain(optax.scale_by_adam(muon.b1, muon.b2, muon.epsilon), optax.scale(muon.rest))
    # Only matrices of layers: embedding tables and LM heads are used row by row; orthogonal updates do not suit them.
    is_orthogonal = lambda names: is_matrix(names) and "layers" in names and "experts" not in names
    labels = lambda params: map_named(lambda path, leaf: "matrix" if is_orthogonal(axes[path]) else "rest", params)
    return finish(muon.weight_decay, optax.partition({"matrix": matrices(orthogonal, axes), "rest": adam}, labels))


def orthogonalised(
    momentum: Mapping[str, Float[Array, "in out"]], coefficients: Float[Array, " 3"], iterations: int
) -> dict[str, Float[Array, "in out"]]:
    """Muon's Newton-Schulz iterations of matrices of norm 1, in less time on a CPU (docs/claims.md).

    An iteration is X -> p(XX') X with p(G) = a + b G + c GG. All p commute, so that it suffices to iterate on the
    smaller G: G -> p G p. Matrices of one shape are one batch.
    """
    a, b, c = coefficients
    polynomial = lambda gram: a * jnp.eye(len(gram[0]), dtype=gram.dtype)[None] + b * gram + c * (gram @ gram)
    groups: dict[tuple[int, ...], list[str]] = {}
    for path, x in momentum.items():
        groups.setdefault(tuple(sorted(x.shape)), []).append(path)
    result = {}
    for (size, _), paths in groups.items():
        x = jnp.stack([momentum[path] if momentum[path].shape[0] == size else momentum[path].T for path in paths])
        gram = jnp.einsum("bij,bkj->bik", x, x)
        factor = product = polynomial(gram)
        for _ in range(iterations - 1):
            gram = factor @ (gram @ factor)
            factor = polynomial(gram)
            product = factor @ product
        updates = dict(zip(paths, product @ x, strict=True))
        result |= {path: y if momentum[path].shape[0] == size else y.T for path, y in updates.items()}
    return result


def _schedule_free(config: OptimizerConfig, finish: Finish, axes: Mapping[str, Axes]) -> optax.GradientTransformation:
    from optax import contrib

    free = config.schedule_free
    # b1 is 0, because the interpolation replaces Adam's momentum.
    fast = finish(free.weight_decay, optax.scale_by_adam(0.0, free.b2, free.epsilon))
    rate = schedules.build_schedule(config.schedule, config.learning_rate, 1 << 30)
    # Optax's schedule_free counts updates from 1.
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
    """Returns the learning rate as a function of the update count, for a run of `steps` updates."""
    return schedules.build_schedule(config.schedule, config.learning_rate, steps)


def build_optimizer(
    config: OptimizerConfig,
    steps: int,
    axes: Any,
    factors: Mapping[str, float | np.ndarray] | None = None,
    start: int = 0,
) -> optax.GradientTransformation:
    """Builds clipping, optimizer, weight decay and schedule as one transformation.

    Args:
      config: the optimizer's settings.
      steps: updates of the run.
      axes: a tuple of logical axes for every parameter.
      factors: the model's factors on the learning rate, by path, in addition to `config.multipliers`; an array
        broadcasts against its parameter.
      start: updates of the run before the first one of this optimizer, for the schedule.

    Returns:
      An optax transformation; its updates include weight decay and the learning rate.

    Raises:
      InputError: unknown optimizer, schedule or format of moments, or one that the optimizer does not support.

    Example:
      >>> params = {"out": {"kernel": jnp.zeros((4, 2)), "bias": jnp.zeros(2)}}
      >>> axes = {"out": {"kernel": ("mlp", "embed"), "bias": ("embed",)}}
      >>> state = jax.eval_shape(build_optimizer(OptimizerConfig(), 100, axes).init, params)
      >>> optax.tree.get(state, "mu")["out"]["kernel"].shape
      (4, 2)
    """
    of_run = schedule(config, steps)
    rate = of_run if start == 0 else lambda count: of_run(count + start)
    # The warmup in updates: schedule_free is built without the number of steps, of which it may be a fraction.
    warmup = float(config.schedule.resolved(steps)[0])
    config = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, warmup=warmup))
    if config.name == "schedule_free" and config.schedule.name != "constant":
        raise InputError(
            f"config.optimizer.schedule.name is {config.schedule.name!r}; optimizer schedule_free requires 'constant'"
        )

    format = lookup(moments.FORMATS, config.moments, "config.optimizer.moments")
    if format and (config.name == "adafactor" or (config.name == "sgd" and not config.sgd.momentum)):
        why = "factors its moments" if config.name == "adafactor" else "has no moments without momentum"
        raise InputError(
            f"config.optimizer.moments is {config.moments!r}, but optimizer {config.name} {why}; use 'float32'"
        )

    def scaled(path: str, update: jax.Array) -> jax.Array:
        factor = math.prod(each.factor for each in config.multipliers if selects([each.pattern], path))
        factor = (factors or {}).get(path, 1.0) * factor
        return update if isinstance(factor, float) and factor == 1 else update * factor

    def finish(weight_decay: float, direction: optax.GradientTransformation) -> optax.GradientTransformation:
        mask = lambda params: map_named(lambda path, leaf: not selects(config.no_decay, path), params)
        return optax.chain(
            moments.narrowed(direction, format) if format else direction,
            optax.add_decayed_weights(weight_decay, mask),
            optax.stateless(lambda updates, params: map_named(scaled, updates)),
            optax.scale_by_learning_rate(rate),
        )

    transform = lookup(OPTIMIZERS, config.name, "config.optimizer.name")(config, finish, by_path(axes))
    return optax.chain(clipping(config.clip), transform) if config.clip else transform


def adapt_clipping(opt_state: Any, before: float, after: float) -> Any:
    """Adapts an optimizer state to a change of `config.clip`: with clipping, it starts with an empty state."""
    if bool(before) == bool(after):
        return opt_state
    return (optax.EmptyState(), opt_state) if after else opt_state[1]


def clipping(max_norm: float) -> optax.GradientTransformation:
    """Scales gradients so that their global norm is at most `max_norm` (Pascanu et al. 2013, section 3.2)."""

    def scaled(updates: Any, _: Any) -> Any:
        # XLA fuses a product by one factor into the optimizer's pass; optax's division costs an additional pass.
        factor = max_norm / jnp.maximum(optax.tree.norm(updates), max_norm)
        return jax.tree.map(lambda update: update * factor.astype(update.dtype), updates)

    return optax.stateless(scaled)


def matrices(inner: optax.GradientTransformation, axes: Mapping[str, Axes]) -> optax.GradientTransformation:
    """Applies `inner` to one matrix at a time, for optimizers that are not elementwise.

    Parameters of a stack have a leading `layers` axis, those of experts also an `experts` axis, and projections have
    separate axes for heads. `inner` gets one matrix [in, out] per projection, layer and expert, as if layers were not
    stacked. `axes` are the logical axes of every parameter by path.
    """

    def split(tree: Any) -> dict[tuple[int, ...], dict[str, Any]]:
        """Groups matrices, by path, by the sizes of their leading axes; the first group has no leading axes."""
        groups: dict[tuple[int, ...], dict[str, Any]] = {(): {}}
        for path, leaf in named_leaves(tree):
            lead = leaf.shape[: len(sides(axes[path])[0])]
            groups.setdefault(lead, {})[path] = leaf.reshape(joined_shape(axes[path], leaf.shape))
        return groups

    def vmapped(function: Callable[..., Any], lead: tuple[int, ...]) -> Callable[..., Any]:
        return functools.reduce(lambda mapped, _: jax.vmap(mapped), lead, function)

    def init(params: Any) -> Any:
        return tuple(vmapped(inner.init, lead)(group) if group else () for lead, group in split(params).items())

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        results, states = dict[str, Any](), []
        groups = zip(split(updates).items(), split(params).values(), state, strict=True)
        for (lead, group), group_params, group_state in groups:
            if group:
                group, group_state = vmapped(inner.update, lead)(group, group_state, group_params)
            results.update(group)
            states.append(group_state)
        return map_named(lambda path, leaf: results[path].reshape(leaf.shape), updates), tuple(states)

    return optax.GradientTransformation(init, update)
