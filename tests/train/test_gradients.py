"""Accumulated gradients equal the gradients of the whole batch, for micro-batches of any weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.core.sums import Sum
from lm_jax.objectives.base import Carry, Loss
from lm_jax.train.gradients import accumulate, plain

BATCH = {
    "x": jnp.float32(np.random.default_rng(0).standard_normal((8, 3))),
    "weights": jnp.array([1.0, 0, 0, 1, 1, 1, 0, 1]),
}
PARAMS = {"w": jnp.array([0.5, -1.0, 2.0])}


def loss_of(batch):
    """A loss whose totals over micro-batches add up to the weighted mean over `batch`, as those of objectives do."""
    weight = batch["weights"].sum()

    def loss(params, part, key, carry):
        values = jnp.tanh(part["x"] @ params["w"])
        total = (values * part["weights"]).sum()
        return Loss(total=total / weight, metrics={"loss": Sum(total=total, weight=part["weights"].sum())})

    return loss


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_micro_batches_of_uneven_weight_give_the_gradients_of_the_batch(parts):
    key = jax.random.key(0)
    expected, sums, _ = plain(loss_of(BATCH), PARAMS, BATCH, key, Carry())
    grads, accumulated, _ = jax.jit(lambda: accumulate(parts)(loss_of(BATCH), PARAMS, BATCH, key, Carry()))()
    # float32 sums of eight numbers in another order.
    np.testing.assert_allclose(grads["w"], expected["w"], atol=1e-6)
    np.testing.assert_allclose(accumulated["loss"].total, sums["loss"].total, atol=1e-6)
    assert accumulated["loss"].weight == sums["loss"].weight == 5


def test_a_mean_of_means_would_be_wrong():
    halves = [{name: leaf[half::2] for name, leaf in BATCH.items()} for half in range(2)]
    naive = sum(plain(loss_of(half), PARAMS, half, jax.random.key(0), Carry())[0]["w"] for half in halves) / 2
    exact = plain(loss_of(BATCH), PARAMS, BATCH, jax.random.key(0), Carry())[0]["w"]
    assert np.abs(naive - exact).max() > 1e-2


def test_one_micro_batch_is_the_plain_function():
    assert accumulate(1) is plain


def test_every_micro_batch_has_its_own_key():
    def loss(params, part, key, carry):
        noise = jax.random.normal(key)
        return Loss(total=params["w"].sum() * noise, metrics={"square": Sum(total=noise**2, weight=1.0 + 0 * noise)})

    grads, sums, _ = accumulate(4)(loss, PARAMS, BATCH, jax.random.key(0), Carry())
    # Equal noise d in all four would give 4 d and 4 d ** 2.
    assert abs(grads["w"][0] ** 2 / 4 - sums["square"].total) > 1e-3


def test_every_micro_batch_takes_rows_of_every_device():
    rows = {"row": jnp.arange(8.0)}
    batches = []

    def loss(params, part, key, carry):
        jax.debug.callback(lambda part: batches.append(tuple(np.asarray(part).astype(int))), part["row"], ordered=True)
        return Loss(total=params["w"].sum(), metrics={})

    accumulate(2)(loss, PARAMS, rows, jax.random.key(0), Carry())
    jax.effects_barrier()
    # Four devices hold rows 0-1, 2-3, 4-5 and 6-7.
    assert batches == [(0, 2, 4, 6), (1, 3, 5, 7)]
