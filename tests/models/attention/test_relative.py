"""Transformer-XL's scores against loops over queries and keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.core.trees import map_named
from lm_jax.models import config as models
from lm_jax.models.attention import recurrence, two_stream
from lm_jax.models.attention.masks import Visibility
from lm_jax.models.attention.relative import RelativeScores, relative_shift
from lm_jax.models.config import AttentionConfig, InitConfig, TransformerXLConfig

BATCH, HEADS, KV, WIDTH = 3, 2, 4, 6


@pytest.mark.parametrize(("length", "keys"), [(1, 1), (1, 4), (5, 5), (4, 7)])
def test_relative_shift_turns_scores_by_distance_into_scores_by_key(length, keys):
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((2, 3, length, length + keys), np.float32)
    shifted = np.asarray(relative_shift(jnp.asarray(scores), length, keys))
    for query in range(length):
        for key in range(keys):
            np.testing.assert_array_equal(shifted[:, :, query, key], scores[:, :, query, length - 1 - query + key])


def test_relative_shift_rows_of_targets_are_those_of_their_tokens():
    rng, targets = np.random.default_rng(0), jnp.array([[3, 0, 2], [1, 1, 3]])
    scores = rng.standard_normal((2, 3, 7, 10), np.float32)
    shifted = np.asarray(relative_shift(jnp.asarray(scores), 4, 6, targets))
    for row in range(2):
        for target in range(3):
            start = 3 - int(targets[row, target])
            expected = scores[row, :, 4 + target, start : start + 6]
            np.testing.assert_array_equal(shifted[row, :, 4 + target], expected)


def scores_by_loops(params, q, config, first, types, key_types, queries):
    """Dai et al. 2019, section 3.3, and Yang et al. 2019, section 2.5, pair by pair in double precision."""
    keys = first + len(types[0])
    scores = np.zeros((BATCH, HEADS, len(queries[0]), keys))
    rates = 10000.0 ** (-2 * np.arange(WIDTH // 2) / WIDTH)
    for row, head, query, key in np.ndindex(scores.shape):
        position = queries[row][query]
        distance = first + position - key
        if config.clamp is not None:
            distance = np.clip(distance, -config.clamp, config.clamp)
        if config.both_ways and row >= BATCH - BATCH // 2:
            distance = -distance
        wave = np.concatenate([np.sin(distance * rates), np.cos(distance * rates)])
        vector = q[row, head, query]
        by_distance = (vector + params["distance_bias"][head]) @ np.einsum("e,ek->k", wave, params["distance"][:, head])
        other = int(types[row][position] != key_types[row][key])
        by_type = (vector + params["type_bias"][head]) @ params["types"][other, head] if config.types else 0.0
        scores[row, head, query, key] = by_distance + by_type
    return scores


@pytest.mark.parametrize("past", [0, 3])
@pytest.mark.parametrize(
    "settings",
    [{"types": True}, {"types": True, "clamp": 2}, {"both_ways": True}, {"both_ways": True, "clamp": 1}],
    ids=lambda settings: "-".join(settings),
)
def test_scores_are_their_formula_for_tokens_and_targets(settings, past):
    rng, length = np.random.default_rng(1), 5
    relative = TransformerXLConfig(**settings)
    config = AttentionConfig(heads=HEADS, head_dim=KV, position="transformer_xl", transformer_xl=relative)
    targets = np.array([[4, 0], [2, 3], [1, 4]])
    q = rng.standard_normal((BATCH, HEADS, length + 2, KV)).astype(np.float32)
    types = rng.integers(0, 2, (BATCH, length))
    visibility = Visibility(query_types=jnp.asarray(types), key_types=jnp.asarray(types))
    visibility = recurrence.prepend_past(visibility, length, past)
    visibility = two_stream.append_targets(visibility, jnp.asarray(targets), length)
    module = RelativeScores(config, InitConfig(), jnp.dtype("float32"))
    call = (jnp.asarray(q), visibility, past + length, WIDTH, 0.5)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *call))["params"]
    unboxed = jax.tree.map(lambda box: box.value, shapes, is_leaf=lambda leaf: hasattr(leaf, "names"))
    params = map_named(lambda path, leaf: jnp.float32(rng.standard_normal(leaf.shape)), unboxed)
    content_queries, scores = jax.jit(lambda params: module.apply({"params": params}, *call))(params)
    doubles = {name: np.float64(leaf) for name, leaf in params.items() if name != "distance"}
    doubles["distance"] = np.float64(params["distance"]["kernel"])
    queries = [[*range(length), *row] for row in targets]
    key_types = np.pad(types, ((0, 0), (past, 0)))
    expected = 0.5 * scores_by_loops(doubles, np.float64(q), relative, past, types, key_types, queries)
    # Sums of 24 products of numbers of size 1.
    np.testing.assert_allclose(scores, expected, atol=2e-5)
    np.testing.assert_allclose(content_queries, q + np.asarray(params["content_bias"])[None, :, None], atol=1e-6)


def test_the_next_past_is_the_latest_of_the_reusable_states():
    earlier, now = jnp.arange(3.0).reshape(1, 3, 1), jnp.arange(3.0, 8.0).reshape(1, 5, 1)
    next_past = lambda **settings: recurrence.next_past(models.MemoryConfig(**settings), earlier, now)[0, :, 0].tolist()
    assert next_past() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert next_past(length=2) == [6, 7]
    assert next_past(length=4, reuse=3) == [2, 3, 4, 5]
    assert next_past(length=99, reuse=1) == [0, 1, 2, 3]
