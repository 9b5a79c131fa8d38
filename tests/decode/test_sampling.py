import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.decode.sampling import GREEDY, SamplingConfig, draw, row_keys, top_k, top_p

LOGITS = jax.random.normal(jax.random.key(3), (4, 50)) * 2


def drawn_ids(logits, config, draws=2000):
    keys = row_keys(0, logits.shape[0])
    chosen = jax.jit(jax.vmap(lambda step: draw(logits, keys, step, config)))(jnp.arange(draws))
    return [set(row.tolist()) for row in np.asarray(chosen).T]


def nucleus(row, share):
    probabilities = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
    order = np.argsort(-probabilities, kind="stable")
    before = np.cumsum(probabilities[order]) - probabilities[order]
    return set(order[before < share].tolist())


def test_temperature_zero_is_greedy():
    np.testing.assert_array_equal(draw(LOGITS, row_keys(0, 4), 7, GREEDY), LOGITS.argmax(-1))


def test_a_tiny_temperature_is_greedy_and_does_not_overflow():
    config = SamplingConfig(temperature=1e-40)
    np.testing.assert_array_equal(draw(LOGITS, row_keys(0, 4), 7, config), LOGITS.argmax(-1))


def test_top_k_draws_from_exactly_the_k_largest():
    for row, ids in zip(np.asarray(LOGITS), drawn_ids(LOGITS, SamplingConfig(temperature=3.0, top_k=5)), strict=True):
        assert ids == set(np.argsort(-row)[:5].tolist())


def test_top_k_of_equal_logits_keeps_only_k():
    assert drawn_ids(jnp.zeros((1, 9)), SamplingConfig(top_k=4), 200) == [{0, 1, 2, 3}]


def test_top_k_above_the_vocabulary_is_all_of_it():
    assert top_k(LOGITS, 1000)[0].shape == LOGITS.shape


@pytest.mark.parametrize("share", [1e-6, 0.1, 0.5, 0.9, 0.999])
def test_top_p_keeps_the_fewest_tokens_that_reach_the_share(share):
    for row, result in zip(np.asarray(LOGITS), np.asarray(top_p(LOGITS, share)), strict=True):
        assert set(np.flatnonzero(np.isfinite(result)).tolist()) == nucleus(row, share)


def test_top_p_draws_from_the_nucleus_only():
    for row, ids in zip(np.asarray(LOGITS), drawn_ids(LOGITS, SamplingConfig(top_p=0.7)), strict=True):
        assert ids == nucleus(row, 0.7)


def test_top_p_follows_top_k():
    config = SamplingConfig(top_k=8, top_p=0.6)
    for row, ids in zip(np.asarray(LOGITS), drawn_ids(LOGITS, config), strict=True):
        best = np.argsort(-row)[:8]
        assert ids == {int(best[place]) for place in nucleus(row[best], 0.6)}


def test_a_certain_token_survives_every_share():
    logits = jnp.array([[0.0, 1e9, 0.0]])
    np.testing.assert_array_equal(np.isfinite(top_p(logits, 1e-9)), [[False, True, False]])


def test_draws_follow_the_softmax():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.2]]))
    keys = row_keys(0, 1)
    ids = jax.vmap(lambda step: draw(logits, keys, step, SamplingConfig()))(jnp.arange(20_000))
    # Four standard deviations of a frequency over 20,000 draws.
    np.testing.assert_allclose(np.bincount(ids[:, 0]) / 20_000, [0.5, 0.3, 0.2], atol=4 * 0.5 / 20_000**0.5)


def test_a_draw_does_not_depend_on_other_rows():
    config = SamplingConfig(top_p=0.95)
    others = LOGITS.at[1:].set(jax.random.normal(jax.random.key(9), (3, 50)))
    alone = draw(LOGITS[:1], row_keys(5, 1), 3, config)
    assert alone[0] == draw(LOGITS, row_keys(5, 4), 3, config)[0] == draw(others, row_keys(5, 4), 3, config)[0]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"temperature": -0.1}, "--temperature"),
        ({"temperature": float("nan")}, "--temperature"),
        ({"top_k": -1}, "--top_k"),
        ({"top_p": 0.0}, "--top_p"),
        ({"top_p": 1.5}, "--top_p"),
    ],
)
def test_settings_out_of_range_are_named(settings, name):
    with pytest.raises(InputError, match=name):
        SamplingConfig(**settings)
