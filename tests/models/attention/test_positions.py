"""Sinusoids, ALiBi's slopes and T5's buckets against their formulas and against reference tables."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.models.attention.positions import (
    SINUSOIDS,
    bucket,
    sinusoidal,
    sinusoidal_halves,
    sinusoidal_interleaved,
    slopes,
)
from lm_jax.models.config import BucketConfig


@pytest.mark.parametrize("width", [16, 20])
def test_sinusoids_go_from_2_pi_to_10000_times_2_pi(width):
    half = width // 2
    positions = np.arange(50)
    rates = 10000.0 ** (-np.arange(half) / (half - 1))
    angles = positions[:, None] * rates
    waves = sinusoidal(jnp.asarray(positions)[None], width)[0]
    # Angles up to 50 in float32 are exact to 4e-6.
    np.testing.assert_allclose(waves, np.concatenate([np.sin(angles), np.cos(angles)], -1), atol=1e-5)


def test_an_odd_width_ends_with_a_zero():
    assert sinusoidal(jnp.arange(4)[None], 7).shape == (1, 4, 7)
    np.testing.assert_array_equal(sinusoidal(jnp.arange(4)[None], 7)[0, :, -1], 0)


def test_sinusoids_of_the_paper_are_interleaved_and_marians_are_halves(tables):
    for count, width in ((64, 32), (50, 20)):
        positions = jnp.arange(count)[None]
        for name, function in {
            "sinusoid2017": sinusoidal_interleaved,
            "sinusoid_marian": sinusoidal_halves,
            "sinusoid_tensor2tensor": sinusoidal,
        }.items():
            expected = tables[f"{name}/n{count}_d{width}"]
            # Angles up to 64 in float32 are exact to 4e-6.
            np.testing.assert_allclose(function(positions, width)[0], expected, atol=1e-5, err_msg=name)


def test_sinusoidal_halves_also_encode_distances_of_either_sign(tables):
    for name, distances in (
        ("xlnet_rel/d16_beg12_end-7", range(12, -7, -1)),
        ("transfoxl_rel/d16_klen12", range(11, -1, -1)),
    ):
        waves = sinusoidal_halves(jnp.asarray([*distances])[None], 16)[0]
        np.testing.assert_allclose(waves, tables[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("function", SINUSOIDS.values(), ids=SINUSOIDS)
def test_sinusoids_start_at_zero_and_differ_between_positions(function):
    rows = np.asarray(function(jnp.arange(40)[None], 9)[0])
    assert rows.shape == (40, 9)
    assert sorted(rows[0].round(6)) in ([0] * 5 + [1] * 4, [0] * 4 + [1] * 5)
    assert min(abs(rows[i] - rows[j]).max() for i in range(40) for j in range(i)) > 0.05


@pytest.mark.parametrize("heads", [1, 2, 4, 6, 8, 12, 16])
def test_slopes_are_those_of_blooms_and_mpts_code(tables, heads):
    np.testing.assert_allclose(slopes(heads), tables[f"alibi_slopes_bloom/h{heads}"], rtol=1e-6)
    np.testing.assert_allclose(slopes(heads), tables[f"alibi_slopes_mpt/h{heads}"], rtol=1e-6)


def test_slopes_of_eight_heads_are_those_of_the_paper():
    np.testing.assert_allclose(slopes(8), 0.5 ** np.arange(1, 9))
    np.testing.assert_allclose(slopes(8, exponent=16.0), 0.25 ** np.arange(1, 9))


def test_penalties_are_blooms_up_to_a_constant_per_query(tables):
    theirs, mask = tables["alibi_bloom_tensor/h6"].reshape(2, 6, 5), tables["alibi_bloom_tensor/mask"]
    positions = np.maximum(mask.cumsum(-1) - 1, 0)
    for row, (position, real) in enumerate(zip(positions, mask > 0, strict=True)):
        for query in position[real]:
            ours = -slopes(6)[:, None] * np.abs(query - position[real])[None]
            # BLOOM's bias grows with the key's position; a decoder attends to keys up to the query.
            difference = (theirs[row][:, real] - ours)[:, position[real] <= query]
            np.testing.assert_allclose(difference, np.broadcast_to(difference[:, :1], difference.shape), atol=1e-6)


def test_buckets_are_t5s(tables):
    relative = jnp.asarray(tables["t5_bucket/relative_position"])
    for buckets, longest in ((32, 128), (8, 16)):
        config = BucketConfig(buckets=buckets, max_distance=longest)
        for name, two_sided in (("bidir", True), ("causal", False)):
            expected = tables[f"t5_bucket/nb{buckets}_max{longest}_{name}"]
            np.testing.assert_array_equal(bucket(relative, config, two_sided=two_sided), expected)


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
    # The offset keeps rounding from falling below logarithms that are integers.
    far = exact + int(math.log(distance / exact) / math.log(config.max_distance / exact) * (count - exact) + 1e-6)
    return offset + min(far, count - 1)


@pytest.mark.parametrize("two_sided", [True, False], ids=["encoder", "decoder"])
@pytest.mark.parametrize("config", [BucketConfig(), BucketConfig(buckets=8, max_distance=16)], ids=["t5", "small"])
def test_buckets_are_those_of_the_paper(config, two_sided):
    relative = np.arange(-300, 301)
    expected = [bucket_of(int(distance), config, two_sided) for distance in relative]
    np.testing.assert_array_equal(bucket(jnp.asarray(relative), config, two_sided=two_sided), expected)


def test_in_a_decoder_all_later_keys_share_a_bucket():
    assert set(np.asarray(bucket(jnp.arange(0, 20), BucketConfig(), two_sided=False))) == {0}
