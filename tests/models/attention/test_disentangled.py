"""Disentangled attention against a loop over every pair of tokens, and properties of its positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lm_jax.core.config import InputError
from lm_jax.models import transformer
from lm_jax.models.attention.disentangled import rows, scores
from lm_jax.models.attention.masks import Visibility
from lm_jax.models.config import AttentionConfig, DisentangledConfig
from lm_jax.models.interface import Inputs

LENGTH = 13
SMALL = DisentangledConfig(buckets=8, max_distance=10)
EXACT = DisentangledConfig(buckets=0, max_distance=5)
KINDS = {"buckets": SMALL, "exact distances": EXACT}


def bucket_of(distance, config):
    """The table row of a relative position, in double precision."""
    size, exact = abs(distance), config.buckets // 2
    if config.buckets and size > exact:
        share = np.log(size / exact) / np.log((config.max_distance - 1) / exact)
        size = int(np.ceil(share * (exact - 1) - 1e-9)) + exact
    return int(np.clip(np.sign(distance) * size + config.span, 0, 2 * config.span - 1))


@pytest.fixture(scope="module")
def arrays():
    """Queries and keys of 2 rows, 3 heads of width 4, and keys and queries of 16 relative positions."""
    rng = np.random.default_rng(0)
    content = lambda: rng.standard_normal((2, 3, LENGTH, 4)).astype(np.float32)
    table = lambda: rng.standard_normal((16, 3, 4)).astype(np.float32)
    return content(), content(), table(), table()


def scores_by_loops(arrays, config, positions, keys, queries):
    """The sum of both terms, pair by pair; `keys`, `queries`: whether a term is used."""
    q, k, position_keys, position_queries = arrays
    total = np.zeros((2, 3, LENGTH, LENGTH))
    for i in range(LENGTH):
        for j in range(LENGTH):
            at = bucket_of(int(positions[i] - positions[j]), config)
            if keys:
                total[:, :, i, j] += np.einsum("bhd,hd->bh", q[:, :, i], position_keys[at])
            if queries:
                total[:, :, i, j] += np.einsum("bhd,hd->bh", k[:, :, j], position_queries[at])
    return total


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(("keys", "queries"), [(True, True), (True, False), (False, True)])
def test_scores_are_those_of_a_loop_over_pairs(arrays, config, keys, queries):
    table = lambda index, used: jnp.asarray(arrays[index][: 2 * config.span]) if used else None
    tables = table(2, keys), table(3, queries)
    content = [jnp.asarray(array) for array in arrays[:2]]
    actual = scores(*content, *tables, Visibility(), config)
    expected = scores_by_loops(arrays, config, np.arange(LENGTH), keys, queries)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    # Positions other than 0, 1, 2, ... use a gather.
    positions = np.random.default_rng(1).permutation(LENGTH) + 7
    permuted = Visibility(query_positions=jnp.asarray(positions)[None], key_positions=jnp.asarray(positions)[None])
    expected = scores_by_loops(arrays, config, positions, keys, queries)
    np.testing.assert_allclose(scores(*content, *tables, permuted, config), expected, atol=1e-5)


def test_a_single_token_has_a_score():
    q = k = jnp.ones((1, 1, 1, 2))
    table = jnp.arange(32.0).reshape(16, 1, 2)
    # Both terms use the row of relative position 0: [16, 17].
    assert float(scores(q, k, table, table, Visibility(), SMALL)[0, 0, 0, 0]) == 2 * (16 + 17)


def test_rows_are_debertas_buckets(tables):
    relative = tables["t5_bucket/relative_position"]
    for buckets, longest in ((8, 32), (256, 512)):
        config = DisentangledConfig(buckets=buckets, max_distance=longest)
        expected = np.clip(tables[f"deberta_bucket/nb{buckets}_max{longest}"] + buckets, 0, 2 * buckets - 1)
        np.testing.assert_array_equal(rows(jnp.asarray(relative), config), expected)


def test_buckets_agree_with_the_formula_for_all_sizes():
    for buckets, longest in ((4, 8), (16, 64), (32, 512), (256, 512), (100, 1000)):
        config = DisentangledConfig(buckets=buckets, max_distance=longest)
        relative = np.arange(-longest - 5, longest + 6)
        expected = [bucket_of(int(distance), config) for distance in relative]
        np.testing.assert_array_equal(rows(jnp.asarray(relative), config), expected, err_msg=f"{buckets} {longest}")


INPUTS = Inputs(tokens=jnp.arange(1, 41).reshape(2, 20))
SEPARATE = {"stack.block.attention.disentangled.share": False}


@pytest.fixture(scope="module", params=[{}, SEPARATE], ids=["shared projections", "separate projections"])
def small(request):
    """Settings of a tiny DeBERTa, its parameters and its hidden states."""
    over = {"stack.block.attention.disentangled.buckets": 8, "stack.scan": "never", **request.param}
    model, params = tiny.build(tiny.config("deberta", over=over), INPUTS)
    return over, params, np.asarray(hidden(over, params))


def hidden(over, params, inputs=INPUTS):
    model = transformer.build_transformer(tiny.config("deberta", over=over))
    return jax.jit(lambda params: model.apply({"params": params}, inputs).hidden)(params)


@pytest.mark.parametrize(
    "other",
    [{"stack.scan": "always"}, {"stack.block.attention.kernel": "blockwise", "stack.block.attention.block": 8}],
    ids=["scanned", "blockwise"],
)
def test_scanned_stacks_and_blockwise_kernels_give_the_same_states(small, other):
    over, params, before = small
    np.testing.assert_allclose(hidden({**over, **other}, params), before, atol=1e-5)


def test_a_packed_text_has_the_states_that_it_has_alone(small):
    over, params, before = small
    positions = jnp.concatenate([jnp.arange(20), jnp.arange(20)])[None]
    packed = Inputs(tokens=INPUTS.tokens.reshape(1, 40), positions=positions, segments=jnp.arange(40)[None] // 20 + 1)
    np.testing.assert_allclose(hidden(over, params, packed)[0].reshape(2, 20, -1), before, atol=1e-5)


def test_order_matters_without_positions_added_to_the_tokens(small):
    over, params, before = small
    backwards = hidden(over, params, Inputs(tokens=INPUTS.tokens[:, ::-1]))[:, ::-1]
    assert np.abs(backwards - before).max() > 0.1


def test_a_decoder_with_a_cache_computes_what_it_computes_without():
    over = {"position": "disentangled", "disentangled.buckets": 8, "disentangled.max_distance": 16}
    over = {f"stack.block.attention.{key}": value for key, value in over.items()}
    model, params = tiny.build(tiny.config("gpt2", over=over), INPUTS)
    expected = model.apply({"params": params}, INPUTS).hidden
    cache, states = model.empty_cache(2, 20), []
    read = jax.jit(lambda cache, tokens: model.apply({"params": params}, Inputs(tokens=tokens), cache=cache))
    for start in range(0, 20, 5):
        output = read(cache, INPUTS.tokens[:, start : start + 5])
        cache, states = output.cache, [*states, output.hidden]
    np.testing.assert_allclose(jnp.concatenate(states, 1), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (lambda: DisentangledConfig(buckets=7), "7 buckets .* expected an even number"),
        (lambda: AttentionConfig(heads=4, kv_heads=2, position="disentangled"), "kv_heads is 2 for 4 heads"),
    ],
    ids=["odd", "shared keys"],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        settings()


def test_an_input_longer_than_the_buckets_distinguish_is_refused():
    q, positions = jnp.ones((1, 1, 9, 2)), jnp.ones((16, 1, 2))
    with pytest.raises(InputError, match="max_distance is 4, but 8 buckets distinguish 4"):
        scores(q, q, positions, positions, Visibility(), DisentangledConfig(buckets=8, max_distance=4))
