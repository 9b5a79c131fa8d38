"""Samples follow the softmax, and distinct samples the softmax over the ids that remain."""

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.objectives import sampling

VOCAB, DRAWS = 37, 20_000
LOGITS = np.random.default_rng(0).standard_normal(VOCAB).astype(np.float32) * 2
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum()
ROWS = jnp.asarray(np.broadcast_to(LOGITS, (DRAWS, VOCAB)))


def assert_distributed(samples, probabilities):
    """Asserts that the chi-squared statistic of `samples` is within five standard deviations of its mean."""
    expected = probabilities * len(samples)
    used = expected >= 5
    counts = np.bincount(samples, minlength=len(probabilities))
    assert not counts[probabilities == 0].any()
    statistic, freedom = ((counts - expected)[used] ** 2 / expected[used]).sum(), used.sum() - 1
    assert statistic < freedom + 5 * np.sqrt(2 * freedom)


def test_samples_follow_the_softmax():
    uniforms = sampling.uniforms(jax.random.split(jax.random.key(0), DRAWS // 10), 10).reshape(DRAWS, 2)
    assert_distributed(np.asarray(jax.jit(sampling.sample)(jnp.exp(ROWS), uniforms)), PROBABILITIES)


def test_extreme_uniforms_and_masses_give_possible_ids():
    masses = jnp.zeros((4, 10)).at[:, jnp.array([3, 8])].set(jnp.array([1e-30, 1e-30]))
    uniforms = jnp.array([[0.0, 0.0], [1 - 2**-23] * 2, [0.0, 1 - 2**-23], [1 - 2**-23, 0.0]])
    assert sampling.sample(masses, uniforms).tolist() == [3, 8, 3, 8]


def test_distinct_samples_follow_the_softmax_over_the_ids_that_remain():
    excluded = jnp.tile(jnp.array([[5, 11]], jnp.int32), (DRAWS, 1))
    uniforms = jnp.asarray(np.random.default_rng(1).random((DRAWS, 4, 2), np.float32))
    samples = np.asarray(jax.jit(sampling.sample_distinct)(ROWS, uniforms, excluded))
    assert not np.isin(samples, [5, 11]).any()
    assert (np.diff(np.sort(samples, 1), axis=1) > 0).all()
    first = np.where(np.isin(np.arange(VOCAB), [5, 11]), 0, PROBABILITIES)
    first /= first.sum()
    assert_distributed(samples[:, 0], first)
    # The second sample, summed over all first ones: p_j * sum over i != j of p_i / (1 - p_i).
    ratios = first / (1 - first)
    assert_distributed(samples[:, 1], first * (ratios.sum() - ratios))


def test_distinct_samples_of_a_certain_softmax_are_different_ids_too():
    logits = jnp.zeros((1, 8)).at[0, 2].set(500.0)
    uniforms = jnp.asarray(np.random.default_rng(2).random((1, 6, 2), np.float32))
    samples = sampling.sample_distinct(logits, uniforms, jnp.array([[2, 7]]))
    assert sorted(samples[0].tolist()) == [0, 1, 3, 4, 5, 6]
