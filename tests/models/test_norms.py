"""Norms against their formulas in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.models.config import NormConfig
from lm_jax.models.norms import Norm


def arrays():
    rng = np.random.default_rng(0)
    return 5 + 3 * rng.standard_normal((3, 4, 96)), rng.standard_normal(96), rng.standard_normal(96)


def test_layer_norm_is_its_formula():
    x, scale, bias = arrays()
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + bias
    params = {"scale": jnp.float32(scale), "bias": jnp.float32(bias)}
    y = Norm(NormConfig(epsilon=1e-5)).apply({"params": params}, jnp.float32(x))
    # Sums of 96 float32 numbers of size 5: relative error of a few 1e-7.
    np.testing.assert_allclose(y, expected, atol=5e-6)


def test_rms_norm_is_its_formula():
    x, scale, _ = arrays()
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale
    y = Norm(NormConfig(name="rms", epsilon=1e-6)).apply({"params": {"scale": jnp.float32(scale)}}, jnp.float32(x))
    np.testing.assert_allclose(y, expected, atol=5e-6)


def test_epsilon_is_inside_the_root():
    x = jnp.full((1, 4), 1e-3)
    y = Norm(NormConfig(name="rms", epsilon=3e-6)).apply({"params": {"scale": jnp.ones(4)}}, x)
    np.testing.assert_allclose(y, 0.5, rtol=1e-5)


def test_bfloat16_is_normalised_in_float32():
    x, scale, _ = arrays()
    norm, params = Norm(NormConfig(name="rms")), {"params": {"scale": jnp.float32(scale)}}
    x = jnp.bfloat16(x)
    y = norm.apply(params, x)
    assert y.dtype == jnp.bfloat16
    # Only the result is rounded: half a unit of bfloat16's 8 bits.
    np.testing.assert_allclose(y.astype(jnp.float32), norm.apply(params, x.astype(jnp.float32)), rtol=2**-8)


def test_an_unknown_norm_is_refused():
    with pytest.raises(InputError, match=r"norm\.name is 'batch'; expected layer or rms"):
        Norm(NormConfig(name="batch")).apply({"params": {"scale": jnp.ones(4)}}, jnp.ones((1, 4)))
