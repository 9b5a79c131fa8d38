"""Sinusoids, rotary angles and T5's buckets against their formulas."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.models.config import BucketConfig, RotaryConfig
from lm_jax.models.positions import bucket, rotary, sinusoidal


@pytest.mark.parametrize("width", [16, 20])
def test_sinusoids_go_from_2_pi_to_10000_times_2_pi(width):
    half = width // 2
    places = np.arange(50)
    rates = 10000.0 ** (-np.arange(half) / (half - 1))
    angles = places[:, None] * rates
    found = sinusoidal(jnp.asarray(places)[None], width)[0]
    # Angles up to 50 in float32 are exact to 4e-6.
    np.testing.assert_allclose(found, np.concatenate([np.sin(angles), np.cos(angles)], -1), atol=1e-5)


def test_an_odd_width_ends_with_a_zero():
    assert sinusoidal(jnp.arange(4)[None], 7).shape == (1, 4, 7)
    np.testing.assert_array_equal(sinusoidal(jnp.arange(4)[None], 7)[0, :, -1], 0)


def scores(offset, config):
    """q k of every pair of 6 places, `offset` further on."""
    rng = np.random.default_rng(0)
    q, k = (jnp.float32(rng.standard_normal((1, 2, 6, 8))) for _ in range(2))
    places = jnp.arange(6)[None] + offset
    return jnp.einsum("bhqd,bhkd->bhqk", rotary(q, places, config), rotary(k, places, config))


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_rotary_scores_depend_on_relative_positions_only(fraction):
    config = RotaryConfig(fraction=fraction)
    # Angles of a thousand in float32 are exact to 6e-5.
    np.testing.assert_allclose(scores(0, config), scores(1000, config), atol=1e-3)


def test_rotary_keeps_lengths():
    x = jnp.float32(np.random.default_rng(0).standard_normal((2, 3, 5, 8)))
    turned = rotary(x, jnp.arange(5)[None], RotaryConfig())
    np.testing.assert_allclose(jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5)
    assert not np.allclose(turned[:, :, 1:], x[:, :, 1:], atol=0.1)


def test_rotary_turns_pairs_of_the_two_halves():
    x = np.random.default_rng(0).standard_normal((1, 1, 9, 8))
    rates = 100.0 ** (-np.arange(4) / 4)
    turn = np.exp(1j * np.arange(9)[:, None] * rates)
    turned = (x[..., :4] + 1j * x[..., 4:]) * turn
    found = rotary(jnp.float32(x), jnp.arange(9)[None], RotaryConfig(theta=100.0))
    np.testing.assert_allclose(found, np.concatenate([turned.real, turned.imag], -1), atol=1e-5)


def test_partial_rotary_leaves_the_rest_alone():
    x = jnp.float32(np.random.default_rng(0).standard_normal((1, 1, 4, 8)))
    turned = rotary(x, jnp.arange(4)[None], RotaryConfig(fraction=0.25))
    np.testing.assert_array_equal(turned[..., 2:], x[..., 2:])
    assert not np.allclose(turned[0, 0, 1, :2], x[0, 0, 1, :2])


def bucket_of(relative, config, two_sided):
    """Raffel et al. 2020, section 2.1, in double precision: half exact, half logarithmic up to `max_distance`."""
    count, offset = config.buckets, 0
    if two_sided:
        count //= 2
        offset = count if relative > 0 else 0
        distance = abs(relative)
    else:
        distance = max(-relative, 0)
    exact = count // 2
    if distance < exact:
        return offset + distance
    # A tiny push up: where the logarithm is a whole number, the formula means that number.
    far = exact + int(math.log(distance / exact) / math.log(config.max_distance / exact) * (count - exact) + 1e-6)
    return offset + min(far, count - 1)


@pytest.mark.parametrize("two_sided", [True, False], ids=["encoder", "decoder"])
@pytest.mark.parametrize("config", [BucketConfig(), BucketConfig(buckets=8, max_distance=16)], ids=["t5", "small"])
def test_buckets_are_those_of_the_paper(config, two_sided):
    relative = np.arange(-300, 301)
    expected = [bucket_of(int(distance), config, two_sided) for distance in relative]
    np.testing.assert_array_equal(bucket(jnp.asarray(relative), config, two_sided=two_sided), expected)


def test_a_decoder_tells_no_two_later_keys_apart():
    assert set(np.asarray(bucket(jnp.arange(0, 20), BucketConfig(), two_sided=False))) == {0}
