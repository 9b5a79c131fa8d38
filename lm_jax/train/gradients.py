"""Ways to get the gradients of a batch. All have one signature, and all give the gradients of the same loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lm_jax.core.sums import Sums
from lm_jax.core.trees import Params
from lm_jax.objectives.base import Batch, Carry, Loss

LossFn = Callable[[Params, Batch, jax.Array, Carry], Loss]


# (loss, parameters, batch, key, carry) -> gradients, metrics, new carry. Totals of `loss` must add up over parts.
GradientFn = Callable[[LossFn, Params, Batch, jax.Array, Carry], tuple[Any, Sums, Carry]]


def plain(loss: LossFn, params: Params, batch: Batch, key: jax.Array, carry: Carry) -> tuple[Any, Sums, Carry]:
    """The whole batch at once."""

    def total(params: Params) -> tuple[jax.Array, tuple[Sums, Carry]]:
        result = loss(params, batch, key, carry)
        return result.total, (result.metrics, result.carry)

    slopes, (sums, after) = jax.grad(total, has_aux=True)(params)
    return slopes, sums, after


def accumulate(parts: int) -> GradientFn:
    """The batch in `parts` equal parts, one after the other, so that activations of one part are all that is kept.

    Exact for any padding: every part's total is already divided by the weights of the whole batch.
    """
    if parts == 1:
        return plain

    # Every parts-th row: consecutive rows live on one device, and each device must keep its share of every part.
    cut = lambda tree: jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), tree)
    joined = lambda tree: jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)

    def gradients(loss: LossFn, params: Params, batch: Batch, key: jax.Array, carry: Carry) -> tuple[Any, Sums, Carry]:
        def one(part: tuple[Batch, Any, jax.Array]) -> tuple[Any, Any]:
            batch, rows, key = part
            slopes, sums, after = plain(loss, params, batch, key, Carry(rows=rows, shared=carry.shared))
            return (slopes, sums, after.shared), after.rows

        def add(total: Any, part: Any) -> tuple[Any, Any]:
            sums, rows = one(part)
            return jax.tree.map(jnp.add, total, sums), rows

        split = cut(batch), cut(carry.rows), jax.random.split(key, parts)
        shapes, _ = jax.eval_shape(one, jax.tree.map(lambda x: x[0], split))
        empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (slopes, sums, shared), rows = jax.lax.scan(add, empty, split)
        return slopes, sums, Carry(rows=joined(rows), shared=shared)

    return gradients
