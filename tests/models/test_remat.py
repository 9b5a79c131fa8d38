"""What the backward pass of a norm or an activation keeps in 16 bits, off the CPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.models import remat
from lm_jax.models.config import FeedForwardConfig, InitConfig, NormConfig
from lm_jax.models.feedforward.dense import FeedForward
from lm_jax.models.norms import Norm

DTYPE = jnp.dtype(jnp.bfloat16)
FORWARD = functools.partial(FeedForward, init_config=InitConfig(), dtype=DTYPE, residual_gain=1.0)
MODULES = {
    "layer norm": Norm(NormConfig()),
    "rms norm": Norm(NormConfig(name="rms", offset=True)),
    "gelu": FORWARD(FeedForwardConfig(activation="gelu")),
    "gated": FORWARD(FeedForwardConfig(activation="gelu_tanh", gated=True)),
}


def forward(name):
    """A module applied to random hidden states [2 16 32], as a function of its parameters and them."""
    module, keys = MODULES[name], jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, 16, 32), DTYPE)
    params = module.init(keys[1], x)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(keys[2], leaf.shape), params)
    return module.apply, params, x


def kept(name):
    """Bytes that the backward pass keeps besides what the caller holds: the parameters."""
    apply, params, x = forward(name)
    arrays = jax.tree.leaves(jax.vjp(apply, params, x)[1])
    return sum(array.nbytes for array in arrays if array.size >= x.size)


@pytest.mark.parametrize("name", ["rms norm", "gated"])
def test_the_gradient_is_the_same(name, monkeypatch):
    def gradient():
        apply, params, x = forward(name)
        return jax.jit(jax.grad(lambda *args: (apply(*args).astype(jnp.float32) ** 2).mean(), (0, 1)))(params, x)

    plain = gradient()
    monkeypatch.setattr(remat, "on_cpu", lambda: False)
    for ours, theirs in zip(jax.tree.leaves(gradient()), jax.tree.leaves(plain), strict=True):
        scale = float(jnp.abs(theirs).max())
        # Roundings to bfloat16, which the compiler may leave out.
        np.testing.assert_allclose(np.float32(ours), np.float32(theirs), atol=2**-7 * scale)


def test_only_inputs_in_16_bits_are_kept(monkeypatch):
    before = {name: kept(name) for name in MODULES}
    monkeypatch.setattr(remat, "on_cpu", lambda: False)
    x, wide = 2 * 16 * 32 * 2, 2 * 16 * 128 * 2
    assert kept("layer norm") == kept("rms norm") == x
    # The input and the output of the activation, and the two kernels, which are as large as their rounded copies.
    kernels = 32 * 128 * 2
    assert kept("gelu") == x + 2 * wide + 2 * kernels
    # Traced without jit, each projection has a reshaped copy of the input.
    assert kept("gated") == 2 * x + 3 * wide + 3 * kernels
    assert all(kept(name) < 0.8 * before[name] for name in MODULES)


def test_float32_is_left_alone(monkeypatch):
    monkeypatch.setattr(remat, "on_cpu", lambda: False)
    text = lambda function: str(jax.make_jaxpr(function)(jnp.ones(3)))
    assert "custom_vjp" not in text(remat.lean(jnp.sin))
