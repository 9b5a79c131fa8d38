"""The train state, and the adjustment of the loss scale."""

import jax
import jax.numpy as jnp
import optax

from lm_jax.train.state import LossScale, adjust, create


def scale(value, good=0):
    return LossScale(scale=jnp.float32(value), good=jnp.int32(good))


def adjusted(before, finite, **options):
    after = adjust(before, jnp.bool_(finite), **options)
    return float(after.scale), int(after.good)


def test_an_overflow_halves_the_scale_and_resets_the_count():
    assert adjusted(scale(1024, good=7), False) == (512, 0)


def test_enough_good_updates_double_the_scale():
    assert adjusted(scale(1024, good=1), True, patience=3) == (1024, 2)
    assert adjusted(scale(1024, good=2), True, patience=3) == (2048, 0)


def test_the_scale_stays_between_one_and_two_to_the_24():
    assert adjusted(scale(1), False) == (1, 0)
    assert adjusted(scale(2.0**24, good=2), True, patience=3) == (2.0**24, 0)


def test_two_states_have_one_tree_structure():
    params = {"model": {"kernel": jnp.ones((2, 2))}}
    first, second = (create(params, optax.adam(1e-3), loss_scaled=False) for _ in range(2))
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(first))


def test_no_two_leaves_share_a_buffer():
    scaled = create({"model": jnp.ones(2)}, optax.sgd(1.0), loss_scaled=True)
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(scaled)]
    assert len(set(pointers)) == len(pointers)


def test_only_float16_has_a_loss_scale():
    assert create({"model": jnp.ones(2)}, optax.sgd(1.0), loss_scaled=False).loss_scale is None
    assert create({"model": jnp.ones(2)}, optax.sgd(1.0), loss_scaled=True).loss_scale.scale == 2.0**15
