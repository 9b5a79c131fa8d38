"""The convolution beside a layer against its formula; texts do not mix and padding is zero."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.core.trees import map_named
from lm_jax.models.config import AttentionConfig, BlockConfig, InitConfig, NeighboursConfig, NormConfig
from lm_jax.models.stack.neighbours import Neighbours


def convolution(**settings):
    """A module with random parameters, none of them 0 or 1, and a layer's input and output."""
    module = Neighbours(NeighboursConfig(**settings), NormConfig(epsilon=1e-6), InitConfig(), jnp.float32)
    rng = np.random.default_rng(0)
    x, y = (jnp.float32(rng.standard_normal((2, 7, 6))) for _ in range(2))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, y, None))["params"]
    unboxed = jax.tree.map(lambda box: box.value, shapes, is_leaf=lambda leaf: hasattr(leaf, "names"))
    return module, map_named(lambda path, leaf: jnp.float32(0.5 * rng.standard_normal(leaf.shape)), unboxed), x, y


@pytest.mark.parametrize(("width", "groups"), [(3, 1), (5, 2), (1, 3)])
def test_the_convolution_is_its_formula(width, groups):
    module, params, x, y = convolution(width=width, groups=groups)
    wide, narrow = jax.tree.map(np.float64, params), 6 // groups
    mixed = np.zeros((2, 7, 6)) + wide["bias"]
    for at in range(7):
        for tap in range(width):
            if 0 <= at + tap - width // 2 < 7:
                for group in range(groups):
                    span = slice(group * narrow, (group + 1) * narrow)
                    mixed[:, at, span] += np.float64(x)[:, at + tap - width // 2, span] @ wide["kernel"][tap, group]
    total = np.float64(y) + np.tanh(mixed)
    total = total - total.mean(-1, keepdims=True)
    total = total / np.sqrt((total**2).mean(-1, keepdims=True) + 1e-6)
    expected = total * wide["norm"]["scale"] + wide["norm"]["bias"]
    np.testing.assert_allclose(module.apply({"params": params}, x, y, None), expected, atol=1e-5)


def test_texts_do_not_mix_and_padding_is_zero():
    module, params, x, y = convolution(width=3)
    segments = jnp.array([[1, 1, 1, 2, 2, 0, 0]] * 2)
    mixed = module.apply({"params": params}, x, y, segments)
    for text in (slice(0, 3), slice(3, 5)):
        alone = module.apply({"params": params}, x[:, text], y[:, text], None)
        np.testing.assert_allclose(mixed[:, text], alone, atol=1e-6)
    assert not np.asarray(mixed[:, 5:]).any()


def test_an_invalid_convolution_is_refused():
    with pytest.raises(InputError, match="width is 4; expected an odd number"):
        NeighboursConfig(width=4)
    causal = BlockConfig(attention=AttentionConfig(mask="causal"))
    with pytest.raises(InputError, match="see the future"):
        dataclasses.replace(causal, neighbours=NeighboursConfig(width=3))
    with pytest.raises(InputError, match="groups is 4, which does not divide embed.width 6"):
        convolution(width=3, groups=4)
