"""The fast generator of dropout draws uniform, independent numbers, which do not depend on the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lm_jax.core.config import InputError
from lm_jax.parallel import mesh
from lm_jax.parallel.mesh import MeshConfig
from lm_jax.train import generators
from lm_jax.train.loop import TrainConfig


def standardised(key, shape):
    """Masks of dropout with mean 0 and variance 1."""
    keep = np.asarray(jax.jit(lambda key: jax.random.bernoulli(key, 0.9, shape))(key))
    return (keep - 0.9) / 0.3


def test_masks_have_the_rate_and_no_correlations():
    mask = standardised(generators.key(3, "hashed"), (2048, 512))
    # Sums of n independent numbers have a deviation of sqrt(n); four of them are as rare as 6e-5.
    score = lambda products: abs(products.sum()) / products.size**0.5
    assert score(mask) < 4
    for lag in range(1, 9):
        assert score(mask[:, lag:] * mask[:, :-lag]) < 4 and score(mask[lag:] * mask[:-lag]) < 4
    for axis, size in enumerate(mask.shape):
        assert 0.9 < mask.sum(axis).std() / size**0.5 < 1.1


def test_no_row_repeats_a_part_of_another():
    # The bits of rows whose positions begin close to each other are compared at their distance.
    key, rows, size = generators.key(0, "hashed"), 1 << 12, 1 << 14
    bits = np.asarray(jax.jit(lambda key: jax.random.bits(key, (rows, size)))(key))
    starts = np.asarray(generators._mixed(jnp.arange(rows, dtype=jnp.uint32) + jax.random.key_data(key)[0]))
    by_start = np.argsort(starts)
    distances = np.diff(starts[by_start].astype(np.int64))
    assert distances.min() < size // 2
    for place in np.flatnonzero(distances < size // 2):
        one, other, lag = bits[by_start[place]], bits[by_start[place + 1]], distances[place]
        assert (one[lag:] == other[:-lag]).mean() < 0.01 and len({*one.tolist()} & {*other.tolist()}) < 10


def test_masks_of_different_keys_are_independent():
    keys = jax.random.split(generators.key(0, "hashed"), 32)
    masks = np.stack([standardised(key, (64, 256)) for key in keys]).reshape(32, -1)
    products = masks @ masks.T / masks.shape[1] ** 0.5
    assert abs(products[np.triu_indices(32, 1)]).max() < 5 and 0.9 < products[np.triu_indices(32, 1)].std() < 1.1


def test_every_bit_is_as_often_set_as_not():
    for dtype in (jnp.uint8, jnp.uint16, jnp.uint32):
        bits = np.asarray(jax.random.bits(generators.key(1, "hashed"), (1 << 14,), dtype))
        shares = [((bits >> bit) & 1).mean() for bit in range(8 * bits.itemsize)]
        # Four standard deviations of the mean of 2^14 bits.
        assert max(abs(share - 0.5) for share in shares) < 4 * 0.5 / 128
    assert jax.random.bits(generators.key(1, "hashed"), (2, 3, 4, 5)).shape == (2, 3, 4, 5)
    assert jax.random.bits(generators.key(1, "hashed")).shape == ()


def test_eight_devices_draw_what_one_draws():
    devices = NamedSharding(mesh.make(MeshConfig(data=2, fsdp=2, tensor=2)), PartitionSpec(("data", "fsdp"), "tensor"))
    draw = lambda key: jax.random.bits(key, (16, 64, 3))
    key = generators.key(5, "hashed")
    np.testing.assert_array_equal(jax.jit(draw, out_shardings=devices)(key), jax.jit(draw)(key))


def test_keys_are_those_of_threefry():
    ours, theirs = (jax.random.split(jax.random.fold_in(key, 7), 3) for key in map(generators.key, (9, 9), NAMES))
    np.testing.assert_array_equal(jax.random.key_data(ours), jax.random.key_data(theirs))
    draws = [np.asarray(jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)) for keys in (ours, theirs)]
    assert not np.array_equal(*draws)


NAMES = ("hashed", "threefry")


def test_an_unknown_generator_is_refused():
    with pytest.raises(InputError, match=r"config\.train\.generator is 'rbg'; .*hashed"):
        TrainConfig(generator="rbg")
