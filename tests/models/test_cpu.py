import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.models import cpu


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_rows_share_has_the_sum_of_their_gradients(dtype):
    x, weights = jnp.arange(6.0).reshape(1, 2, 3).astype(dtype), jnp.cos(jnp.arange(30.0)).reshape(5, 2, 3)
    shared = cpu.repeated(x, 5)
    np.testing.assert_array_equal(shared, jnp.broadcast_to(x, (5, 2, 3)))
    slope = jax.jit(jax.grad(lambda x: (cpu.repeated(x, 5).astype(jnp.float32) * weights).sum()))(x)
    assert slope.dtype == dtype and slope.shape == x.shape
    near = {jnp.float32: 1e-6, jnp.bfloat16: 2e-2}[dtype]
    np.testing.assert_allclose(np.float32(slope), weights.sum(0, keepdims=True), atol=near)


def test_rows_that_are_there_already_are_not_repeated():
    x = jnp.ones((5, 2))
    assert cpu.repeated(x, 5) is x
