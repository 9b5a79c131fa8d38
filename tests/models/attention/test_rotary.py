"""Rotary angles against their formula and against reference tables."""

import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.models.attention.rotary import frequencies, rotary
from lm_jax.models.config import RotaryConfig, ScalingConfig


def scores(offset, config):
    """Scores of every pair of 6 positions, shifted by `offset`."""
    rng = np.random.default_rng(0)
    q, k = (jnp.float32(rng.standard_normal((1, 2, 6, 8))) for _ in range(2))
    positions = jnp.arange(6)[None] + offset
    return jnp.einsum("bhqd,bhkd->bhqk", rotary(q, positions, config), rotary(k, positions, config))


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_rotary_scores_depend_on_relative_positions_only(fraction):
    config = RotaryConfig(fraction=fraction)
    # Angles of a thousand in float32 are exact to 6e-5.
    np.testing.assert_allclose(scores(0, config), scores(1000, config), atol=1e-3)


def test_rotary_keeps_lengths():
    x = jnp.float32(np.random.default_rng(0).standard_normal((2, 3, 5, 8)))
    rotated = rotary(x, jnp.arange(5)[None], RotaryConfig())
    np.testing.assert_allclose(jnp.linalg.norm(rotated, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5)
    assert not np.allclose(rotated[:, :, 1:], x[:, :, 1:], atol=0.1)


def test_rotary_rotates_pairs_of_the_two_halves():
    x = np.random.default_rng(0).standard_normal((1, 1, 9, 8))
    rates = 100.0 ** (-np.arange(4) / 4)
    rotation = np.exp(1j * np.arange(9)[:, None] * rates)
    expected = (x[..., :4] + 1j * x[..., 4:]) * rotation
    rotated = rotary(jnp.float32(x), jnp.arange(9)[None], RotaryConfig(theta=100.0))
    np.testing.assert_allclose(rotated, np.concatenate([expected.real, expected.imag], -1), atol=1e-5)


def test_partial_rotary_leaves_the_rest_unchanged():
    x = jnp.float32(np.random.default_rng(0).standard_normal((1, 1, 4, 8)))
    rotated = rotary(x, jnp.arange(4)[None], RotaryConfig(fraction=0.25))
    np.testing.assert_array_equal(rotated[..., 2:], x[..., 2:])
    assert not np.allclose(rotated[0, 0, 1, :2], x[0, 0, 1, :2])


def test_interleaved_pairs_are_neighbours():
    x = np.random.default_rng(0).standard_normal((1, 1, 9, 10))
    rates = 10000.0 ** (-np.arange(4) / 4)
    expected = (x[..., :8:2] + 1j * x[..., 1:8:2]) * np.exp(1j * np.arange(9)[:, None] * rates)
    rotated = rotary(jnp.float32(x), jnp.arange(9)[None], RotaryConfig(interleaved=True, fraction=0.8))
    np.testing.assert_allclose(rotated[..., :8:2], expected.real, atol=1e-5)
    np.testing.assert_allclose(rotated[..., 1:8:2], expected.imag, atol=1e-5)
    np.testing.assert_array_equal(rotated[..., 8:], jnp.float32(x[..., 8:]))


def test_interleaved_pairs_are_those_of_gptj(tables):
    x, y = tables["rope_gptj/d8/x"], tables["rope_gptj/d8/y"]
    swap = lambda array: jnp.asarray(array).transpose(1, 0, 2)[None]
    rotated = rotary(swap(x), jnp.arange(len(x))[None], RotaryConfig(interleaved=True))
    np.testing.assert_allclose(rotated, swap(y), atol=1e-5)


SCALED = {
    "default": RotaryConfig(),
    "linear4": RotaryConfig(scaling=ScalingConfig(name="linear", factor=4.0)),
    "llama3": RotaryConfig(theta=5e5, scaling=ScalingConfig(name="llama3", factor=8.0, length=32)),
    "llama3.1_8b": RotaryConfig(theta=5e5, scaling=ScalingConfig(name="llama3", factor=8.0, length=8192)),
    "yarn4": RotaryConfig(scaling=ScalingConfig(name="yarn", factor=4.0, length=16)),
    "ntk_dynamic_len128": RotaryConfig(scaling=ScalingConfig(name="dynamic", factor=2.0, length=64)),
}


@pytest.mark.parametrize(("name", "config"), SCALED.items(), ids=SCALED)
def test_scaled_angles_are_those_of_the_reference(tables, name, config):
    x, y = (jnp.asarray(tables[f"rope/{name}/{part}"])[None] for part in "xy")
    last = 127 if "len128" in name else 39
    rates, magnitude = frequencies(config, x.shape[-1], jnp.array([[0, last]]))
    np.testing.assert_allclose(rates, tables[f"rope/{name}/inv_freq"], rtol=2e-6)  # float32 powers
    assert magnitude == pytest.approx(float(tables[f"rope/{name}/attention_factor"]), rel=1e-6)
    # The rates of `dynamic` depend on the length of the input.
    longer = jnp.pad(x, ((0, 0), (0, 0), (0, last - 39), (0, 0)))
    np.testing.assert_allclose(rotary(longer, jnp.arange(last + 1)[None], config)[:, :, :40], y, atol=2e-5)


def test_ntk_scales_the_longest_wavelength_by_the_factor(tables):
    config = RotaryConfig(scaling=ScalingConfig(name="ntk", factor=4.0))
    rates, magnitude = frequencies(config, 16, jnp.arange(4)[None])
    np.testing.assert_allclose(rates, tables["rope_ntk_static/hd16_s4/inv_freq"], rtol=1e-6)
    plain = np.asarray(frequencies(RotaryConfig(), 16, jnp.arange(4)[None])[0])
    np.testing.assert_allclose(plain / rates, 4.0 ** (np.arange(8) / 7), rtol=1e-5)
    assert magnitude == 1.0


def test_dynamic_scaling_changes_nothing_within_the_trained_length():
    config = SCALED["ntk_dynamic_len128"]
    within = frequencies(config, 16, jnp.arange(64)[None])[0]
    np.testing.assert_allclose(within, frequencies(RotaryConfig(), 16, jnp.arange(64)[None])[0], rtol=1e-6)
    assert frequencies(config, 16, jnp.arange(65)[None])[0][-1] < within[-1]


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        (ScalingConfig(name="yarn", factor=4.0), "rotary.scaling.length is None; yarn needs the length"),
        (ScalingConfig(name="yaarn"), "rotary.scaling.name is 'yaarn'; expected one of .*did you mean yarn"),
    ],
    ids=["no length", "unknown name"],
)
def test_invalid_scaling_is_refused(scaling, message):
    with pytest.raises(InputError, match=message):
        frequencies(RotaryConfig(scaling=scaling), 8, jnp.arange(4)[None])
