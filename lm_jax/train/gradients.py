"""Ways to get the gradients of a batch. All have one signature, and all give the gradients of the same loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from lm_jax.core.sums import Sums
from lm_jax.objectives.base import Batch, Loss

LossFn = Callable[[Any, Batch, jax.Array], Loss]


class GradientFn(Protocol):
    """Gradients and metrics of a batch."""

    def __call__(self, loss: LossFn, params: Any, batch: Batch, key: jax.Array) -> tuple[Any, Sums]:
        """`loss(params, part of the batch, key)` must give totals that add up over parts."""
        ...


def plain(loss: LossFn, params: Any, batch: Batch, key: jax.Array) -> tuple[Any, Sums]:
    """The whole batch at once."""

    def total(params: Any) -> tuple[jax.Array, Sums]:
        result = loss(params, batch, key)
        return result.total, result.metrics

    return jax.grad(total, has_aux=True)(params)


def accumulate(parts: int) -> GradientFn:
    """The batch in `parts` equal parts, one after the other, so that activations of one part are all that is kept.

    Exact for any padding: every part's total is already divided by the weights of the whole batch.
    """
    if parts == 1:
        return plain

    def gradients(loss: LossFn, params: Any, batch: Batch, key: jax.Array) -> tuple[Any, Sums]:
        # Every parts-th row: consecutive rows live on one device, and each device must keep its share of every part.
        split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
        keys = jax.random.split(key, parts)

        def one(total: Any, part: tuple[Any, jax.Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, plain(loss, params, *part)), None

        empty = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(lambda: plain(loss, params, jax.tree.map(lambda x: x[0], split), keys[0])),
        )
        return jax.lax.scan(one, empty, (split, keys))[0]

    return gradients
