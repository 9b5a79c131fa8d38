"""Gradients of a batch: computed at once, or accumulated over micro-batches with equal results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lm_jax.core.sums import Sums
from lm_jax.core.trees import Params
from lm_jax.objectives.base import Batch, Carry, Loss

LossFn = Callable[[Params, Batch, jax.Array, Carry], Loss]

# (loss, parameters, batch, key, carry) -> gradients, metrics, new carry. Totals of `loss` add up over micro-batches.
GradientFn = Callable[[LossFn, Params, Batch, jax.Array, Carry], tuple[Any, Sums, Carry]]


def plain(loss: LossFn, params: Params, batch: Batch, key: jax.Array, carry: Carry) -> tuple[Any, Sums, Carry]:
    """Computes the gradients of the whole batch at once."""

    def total(params: Params) -> tuple[jax.Array, tuple[Sums, Carry]]:
        result = loss(params, batch, key, carry)
        return result.total, (result.metrics, result.carry)

    grads, (sums, after) = jax.grad(total, has_aux=True)(params)
    return grads, sums, after


def accumulate(parts: int) -> GradientFn:
    """Accumulates gradients over `parts` equal micro-batches, to hold the activations of only one in memory.

    Exact for any padding, because the loss of every micro-batch is divided by the weight of the whole batch.

    Example:
      >>> loss = lambda params, batch, key, carry: Loss(total=(params["w"] * batch["x"]).sum(), metrics={})
      >>> batch = {"x": jnp.arange(4.0)}
      >>> grads = jax.jit(lambda params: accumulate(2)(loss, params, batch, jax.random.key(0), Carry())[0])
      >>> grads({"w": jnp.ones(())})
      {'w': Array(6., dtype=float32)}
    """
    if parts == 1:
        return plain

    # A micro-batch takes every parts-th row: devices hold consecutive rows and need an equal share of each micro-batch.
    split = lambda tree: jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), tree)
    merge = lambda tree: jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)

    def gradients(loss: LossFn, params: Params, batch: Batch, key: jax.Array, carry: Carry) -> tuple[Any, Sums, Carry]:
        def of_micro_batch(part: tuple[Batch, Any, jax.Array]) -> tuple[Any, Any]:
            batch, rows, key = part
            grads, sums, after = plain(loss, params, batch, key, Carry(rows=rows, shared=carry.shared))
            return (grads, sums, after.shared), after.rows

        def add(total: Any, part: Any) -> tuple[Any, Any]:
            sums, rows = of_micro_batch(part)
            return jax.tree.map(jnp.add, total, sums), rows

        inputs = split(batch), split(carry.rows), jax.random.split(key, parts)
        shapes, _ = jax.eval_shape(of_micro_batch, jax.tree.map(lambda x: x[0], inputs))
        empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (grads, sums, shared), rows = jax.lax.scan(add, empty, inputs)
        return grads, sums, Carry(rows=merge(rows), shared=shared)

    return gradients
