import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import erf

from lm_jax.models.feedforward.dense import gelu
from lm_jax.models.heads import is_largest, largest


def test_largest_is_the_first_of_the_largest_logits():
    logits = jax.random.normal(jax.random.key(3), (2, 4, 50))
    np.testing.assert_array_equal(largest(logits), logits.argmax(-1))
    np.testing.assert_array_equal(largest(jnp.array([[1.0, 5.0, 5.0], [-jnp.inf, -jnp.inf, 0.0]])), [1, 2])
    np.testing.assert_array_equal(largest(jnp.full((2, 7), jnp.nan)), [6, 6])


def test_is_largest_is_true_for_the_first_of_the_largest_logits_only():
    logits = jnp.round(3 * jax.random.normal(jax.random.key(4), (200, 12)))
    labels = jax.random.randint(jax.random.key(5), (200,), 0, 12)
    labels = jnp.where(jnp.arange(200) % 2 == 0, logits.argmax(-1), labels)
    np.testing.assert_array_equal(is_largest(logits, labels), logits.argmax(-1) == labels)
    assert not is_largest(jnp.full((3, 5), jnp.nan), jnp.array([0, 2, 4])).any()


def test_gelu_is_exact_up_to_rounding_in_float32_and_in_bfloat16():
    x = np.linspace(-6, 6, 1001).astype(np.float32)
    expected = 0.5 * x.astype(np.float64) * (1 + erf(x.astype(np.float64) / 2**0.5))
    np.testing.assert_allclose(gelu(jnp.asarray(x)), expected, rtol=1e-6, atol=1e-6)
    rough = np.asarray(gelu(jnp.asarray(x, jnp.bfloat16)).astype(jnp.float32))
    exact = np.asarray(gelu(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32)))
    np.testing.assert_allclose(rough, exact, rtol=2**-8, atol=1e-30)
