"""The train state: arrays only, so that any two states of a run have the same tree structure.

Fields are annotated `| Any`, because instances of these classes also hold shapes, shardings and logical axes.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from lm_jax.objectives.base import Carry


@flax.struct.dataclass
class LossScale:
    """Dynamic loss scaling for float16 (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2).

    Attributes:
      scale: factor on the loss before differentiation.
      good: updates since the scale last changed.
    """

    scale: Float[Array, ""] | Any
    good: Int[Array, ""] | Any


@flax.struct.dataclass
class TrainState:
    """Everything that a train step reads and updates.

    Attributes:
      step: number of finished steps; determines the next batch and all random numbers.
      updates: steps that changed the parameters, not counting skipped ones; determines the learning rate.
      params: trees of float32 parameters by role.
      opt_state: the optimizer state.
      loss_scale: for float16 only.
      averaged: averages of `params` over updates; None if the recipe has none.
      frozen: parameters without gradients or optimizer state.
      carry: arrays that the objective passes from step to step.
    """

    step: Int[Array, ""] | Any
    updates: Int[Array, ""] | Any
    params: Any
    opt_state: Any
    loss_scale: LossScale | None | Any = None
    averaged: Any = None
    frozen: Any = flax.struct.field(default_factory=dict)
    carry: Carry = Carry()

    @property
    def weights(self) -> Weights:
        """The parameters to evaluate: their averages if the recipe has them."""
        return Weights(self.params if self.averaged is None else self.averaged, self.frozen, self.carry.shared)


@flax.struct.dataclass
class Weights:
    """The part of a state that evaluation needs: trained and frozen parameters by role, and `carry.shared`."""

    params: Any
    frozen: Any = flax.struct.field(default_factory=dict)
    shared: Any = flax.struct.field(default_factory=dict)


def create(
    params: Any,
    optimizer: optax.GradientTransformation,
    *,
    loss_scaled: bool,
    averaged: bool = False,
    frozen: Any = None,
    carry: Carry = Carry(),  # noqa: B008 - it is frozen
) -> TrainState:
    """Creates the state before the first step."""
    # A new buffer for each field, because donating one buffer twice is an error.
    zero = lambda: jnp.zeros((), jnp.int32)
    scale = LossScale(scale=jnp.full((), 2.0**15, jnp.float32), good=zero()) if loss_scaled else None
    return TrainState(
        step=zero(),
        updates=zero(),
        params=params,
        opt_state=optimizer.init(params),
        loss_scale=scale,
        averaged=jax.tree.map(jnp.copy, params) if averaged else None,
        frozen=frozen or {},
        carry=carry,
    )


def empty_carry(carry: Carry, rows: int) -> Carry:
    """Creates the carry before the first step: zeros for a batch of `rows` rows."""
    zeros = lambda fields, *lead: {
        name: jnp.zeros((*lead, *field.shape), field.dtype) for name, field in fields.items()
    }
    return Carry(rows=zeros(carry.rows, rows), shared=zeros(carry.shared))


def adjust(scale: LossScale, finite: Array, *, patience: int = 2000) -> LossScale:
    """Halves the scale after an overflow, doubles it after `patience` updates without one."""
    good = jnp.where(finite, scale.good + 1, 0)
    grown = jnp.where(good >= patience, scale.scale * 2, scale.scale)
    return LossScale(
        scale=jnp.where(finite, jnp.minimum(grown, 2.0**24), jnp.maximum(scale.scale / 2, 1.0)),
        good=jnp.where(good >= patience, 0, good),
    )
