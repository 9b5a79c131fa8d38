"""The train step and the evaluation step, for every objective, model and optimizer."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from lm_jax.core.sums import Sum, Sums
from lm_jax.core.trees import Params
from lm_jax.objectives.base import Batch, Carry, Loss, Objective, Part
from lm_jax.objectives.roles import Models
from lm_jax.objectives.task import Outputs, Task
from lm_jax.train import generators
from lm_jax.train import state as states
from lm_jax.train.averaging import Average
from lm_jax.train.gradients import GradientFn, plain
from lm_jax.train.state import LossScale, TrainState, Weights

Step = Callable[[TrainState, Batch], tuple[TrainState, Sums]]


def make_train_step(
    objective: Objective,
    models: Models,
    optimizer: optax.GradientTransformation,
    *,
    gradients: GradientFn = plain,
    average: Average | None = None,
    seed: int = 0,
    generator: str = "threefry",
) -> Step:
    """Makes a function (state, batch) -> (state, sums), to be jitted by a layout.

    Args:
      objective: defines the loss.
      models: the models of its roles.
      optimizer: converts gradients to updates.
      gradients: computes the gradients of a batch, such as `gradients.accumulate(4)`.
      average: updates `state.averaged`.
      seed: determines, with the step, all random numbers on the device.
      generator: draws the random numbers of dropout, a key of `generators.GENERATORS`.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        key = jax.random.fold_in(generators.key(seed, generator), state.step)
        weights = objective.weights(batch)
        scale = 1.0 if state.loss_scale is None else state.loss_scale.scale

        def loss(params: Params, part: Batch, key: jax.Array, carry: Carry) -> Loss:
            bound = models.bind(params, state.frozen)
            result = objective.loss(bound, Part(batch=part, weights=weights, key=key, carry=carry))
            return result.replace(total=result.total * scale)  # type: ignore[attr-defined]

        grads, sums, carry = gradients(loss, state.params, batch, key, state.carry)
        if state.loss_scale is not None:
            grads = jax.tree.map(lambda grad: grad / scale, grads)
        norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        new = state.replace(  # type: ignore[attr-defined]
            step=state.step + 1,
            updates=state.updates + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            carry=carry,
        )
        if average is not None:
            new = new.replace(averaged=average(state.averaged, new.params, opt_state, state.updates))
        if state.loss_scale is not None:
            new, sums = _skip_overflow(state, state.loss_scale, new, jnp.isfinite(norm), sums)
        return new, {**sums, "gradient_norm": Sum(total=norm, weight=jnp.ones(()))}

    return step


def make_eval_step(objective: Objective, models: Models) -> Callable[[Weights, Batch], Sums]:
    """Makes a function (weights, batch) -> sums, without dropout; every row starts with an empty carry."""

    def step(weights: Weights, batch: Batch) -> Sums:
        rows = len(next(iter(batch.values())))
        carry = Carry(rows=states.empty_carry(objective.carry, rows).rows, shared=weights.shared)
        bound = models.bind(weights.params, weights.frozen)
        return objective.loss(bound, Part(batch=batch, weights=objective.weights(batch), carry=carry)).metrics

    return step


def make_answer_step(objective: Task, models: Models) -> Callable[[Weights, Batch], tuple[Sums, Outputs]]:
    """Makes a function (weights, batch) -> (sums, outputs of the rows), without dropout."""

    def step(weights: Weights, batch: Batch) -> tuple[Sums, Outputs]:
        bound = models.bind(weights.params, weights.frozen)
        loss, outputs = objective.answer(bound, Part(batch=batch, weights=objective.weights(batch)))
        return loss.metrics, outputs

    return step


def _skip_overflow(
    old: TrainState, before: LossScale, new: TrainState, finite: jax.Array, sums: Sums
) -> tuple[TrainState, Sums]:
    """Restores the old state, except the step, after a float16 overflow; adjusts the loss scale in any case."""
    selected = jax.tree.map(lambda after, earlier: jnp.where(finite, after, earlier), new, old)
    scale = states.adjust(before, finite)
    unit = jnp.ones(())
    report = {
        "loss_scale": Sum(total=before.scale, weight=unit),
        "skipped": Sum(total=1.0 - finite.astype(jnp.float32), weight=unit),
    }
    return selected.replace(step=new.step, loss_scale=scale), {**sums, **report}
