"""Cross-entropy against JAX's log-softmax, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.core.sums import Sum
from lm_jax.objectives.base import accuracy, cross_entropy, per_weight, weighted


def plain(logits, labels):
    """The textbook formula in float32."""
    right = jnp.take_along_axis(jax.nn.log_softmax(logits.astype(jnp.float32), -1), labels[..., None], -1)
    return -right[..., 0]


def drawn(dtype):
    rng = np.random.default_rng(0)
    return jnp.asarray(8 * rng.standard_normal((3, 5, 40)), dtype), jnp.asarray(rng.integers(0, 40, (3, 5)), jnp.int32)


def both(function, logits, labels):
    pull = jnp.cos(jnp.arange(15.0)).reshape(3, 5)
    return function(logits, labels), jax.grad(lambda logits: (function(logits, labels) * pull).sum())(logits)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_cross_entropy_is_minus_the_log_softmax_of_the_label(dtype):
    logits, labels = drawn(dtype)
    values, slopes = both(cross_entropy, logits, labels)
    expected, expected_slopes = both(plain, logits, labels)
    assert values.dtype == jnp.float32 and slopes.dtype == dtype
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)
    # Both gradients are rounded once to the logits' dtype: at most a unit apart.
    unit = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.float32(slopes), np.float32(expected_slopes), rtol=2 * unit, atol=1e-6)


def test_huge_logits_stay_finite():
    logits, labels = jnp.array([[1e30, -1e30, 0.0]]), jnp.array([1])
    values, slopes = jax.value_and_grad(lambda logits: cross_entropy(logits, labels).sum())(logits)
    assert np.isfinite(values) and np.isfinite(slopes).all()


def test_equal_logits_cost_the_logarithm_of_the_vocabulary():
    assert cross_entropy(jnp.zeros((1, 50)), jnp.array([3]))[0] == pytest.approx(np.log(50))


def test_weights_of_zero_take_part_in_nothing():
    logits, labels = drawn(jnp.float32)
    weights = jnp.zeros((3, 5)).at[0, 1].set(1.0)
    found = weighted(cross_entropy(logits, labels), weights)
    assert isinstance(found, Sum) and found.weight == 1.0
    assert float(found.total) == float(plain(logits, labels)[0, 1].astype(jnp.float32)) or np.isclose(
        found.total, plain(logits, labels)[0, 1]
    )
    assert accuracy(logits, logits.argmax(-1).astype(jnp.int32), weights).mean() == 1.0


def test_nothing_divided_by_no_weight_is_nothing():
    assert per_weight(jnp.float32(0), jnp.float32(0)) == 0
