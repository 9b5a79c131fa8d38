import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.models import cpu


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_gradient_of_a_broadcast_array_is_the_sum_over_its_rows(dtype):
    x, weights = jnp.arange(6.0).reshape(1, 2, 3).astype(dtype), jnp.cos(jnp.arange(30.0)).reshape(5, 2, 3)
    rows = cpu.broadcast_rows(x, 5)
    np.testing.assert_array_equal(rows, jnp.broadcast_to(x, (5, 2, 3)))
    gradient = jax.jit(jax.grad(lambda x: (cpu.broadcast_rows(x, 5).astype(jnp.float32) * weights).sum()))(x)
    assert gradient.dtype == dtype and gradient.shape == x.shape
    tolerance = {jnp.float32: 1e-6, jnp.bfloat16: 2e-2}[dtype]
    np.testing.assert_allclose(np.float32(gradient), weights.sum(0, keepdims=True), atol=tolerance)


def test_an_array_that_has_all_rows_is_returned_unchanged():
    x = jnp.ones((5, 2))
    assert cpu.broadcast_rows(x, 5) is x
