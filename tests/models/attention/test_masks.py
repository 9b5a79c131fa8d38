"""Masks combine elementwise, and the range of `reach` contains every allowed key."""

import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.models.attention import masks, recurrence
from lm_jax.models.attention.masks import TokenPositions, Visibility, around, causal, full, prefix, recent, strided
from lm_jax.models.config import AttentionConfig


def table(mask, queries, keys, prefix=None):
    """A mask as a boolean array [query key]."""
    if mask.allow is None:
        return np.ones((queries, keys), bool)
    query, key = np.arange(queries)[:, None], np.arange(keys)[None]
    inside = (lambda position: None) if prefix is None else (lambda position: position < prefix)
    return np.broadcast_to(
        mask.allow(TokenPositions(query, inside(query)), TokenPositions(key, inside(key))), (queries, keys)
    )


FAMILIES = {
    "full": full,
    "causal": causal,
    "prefix": prefix,
    "around": around(2),
    "causal & recent": causal & recent(3),
    "causal | around": causal | around(1),
    "full & causal": full & causal,
    "full | causal": full | causal,
    "causal & (recent | strided)": causal & (recent(2) | strided(3)),
    "prefix & recent": prefix & recent(2),
}


def test_causal_is_the_lower_triangle():
    np.testing.assert_array_equal(table(causal, 5, 5), np.tri(5, dtype=bool))


@pytest.mark.parametrize("left", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("right", [full, causal, around(1)], ids=["full", "causal", "around"])
def test_and_and_or_are_elementwise(left, right):
    np.testing.assert_array_equal(table(left & right, 7, 7), table(left, 7, 7) & table(right, 7, 7))
    np.testing.assert_array_equal(table(left | right, 7, 7), table(left, 7, 7) | table(right, 7, 7))


@pytest.mark.parametrize("mask", FAMILIES.values(), ids=FAMILIES)
def test_reach_never_excludes_an_allowed_key(mask):
    for queries, keys in ((9, 9), (9, 6), (6, 9)):
        allowed = table(mask, queries, keys, prefix=4)
        for start in range(queries):
            for stop in range(start + 1, queries + 1):
                first, last = mask.reach(start, stop, keys)
                near = np.flatnonzero(allowed[start:stop].any(0))
                assert not len(near) or (first <= near[0] and near[-1] < last), (start, stop, keys)


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({"mask": "causal", "window": 3}, lambda i, j: i - 3 < j <= i),
        ({"mask": "full", "window": 3}, lambda i, j: abs(i - j) <= 3),
        ({"mask": "causal", "stride": 4}, lambda i, j: j <= i and (i - j) % 4 == 0),
        ({"mask": "causal", "window": 2, "stride": 4}, lambda i, j: j <= i and (j > i - 2 or (i - j) % 4 == 0)),
        ({"mask": "full", "window": 1, "stride": 4}, lambda i, j: abs(i - j) <= 1 or (i - j) % 4 == 0),
        ({"mask": "prefix"}, lambda i, j: j <= i or j < 4),
        ({"mask": "prefix", "window": 3}, lambda i, j: (j <= i or j < 4) and j > i - 3),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_settings_give_the_masks_that_they_describe(settings, allowed):
    mask = masks.of_config(AttentionConfig(**settings))
    expected = [[allowed(i, j) for j in range(11)] for i in range(11)]
    np.testing.assert_array_equal(table(mask, 11, 11, prefix=4), expected)


def test_a_prefix_mask_without_a_prefix_is_causal():
    np.testing.assert_array_equal(table(prefix, 6, 6), np.tri(6, dtype=bool))


def test_prefixes_differ_from_row_to_row():
    visibility = Visibility(mask=prefix, prefix=jnp.array([0, 3]))
    allowed = visibility.allowed(slice(0, 5), slice(0, 5))
    np.testing.assert_array_equal(allowed[0], table(causal, 5, 5))
    np.testing.assert_array_equal(allowed[1], table(prefix, 5, 5, prefix=3))


def test_a_window_limits_reach():
    near = masks.of_config(AttentionConfig(window=4))
    assert near.reach(16, 24, 64) == (13, 24)
    assert masks.of_config(AttentionConfig(mask="full", window=4)).reach(16, 24, 64) == (12, 28)


def test_causal_reach_ends_with_the_block():
    assert causal.reach(8, 12, 64) == (0, 12)


def test_segments_must_agree_and_padding_is_never_attended_to():
    segments = jnp.array([[1, 1, 2, 0]])
    visibility = Visibility(mask=full, query_segments=segments, key_segments=segments)
    expected = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], bool)
    np.testing.assert_array_equal(visibility.allowed(slice(0, 4), slice(0, 4))[0], expected)


def test_without_query_segments_only_padding_is_masked():
    visibility = Visibility(mask=full, key_segments=jnp.array([[1, 2, 0]]))
    np.testing.assert_array_equal(visibility.allowed(slice(0, 2), slice(0, 3))[0], [[True, True, False]])


def test_masks_use_given_positions_instead_of_indices():
    positions = jnp.array([[5, 6, 7]])
    cached = jnp.array([[4, 5, 6, 7, 9]])
    visibility = Visibility(mask=causal, query_positions=positions, key_positions=cached)
    np.testing.assert_array_equal(
        visibility.allowed(slice(0, 3), slice(0, 5))[0], [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]
    )
    assert not visibility.positions_are_indices


def test_an_unknown_mask_lists_the_known_ones():
    with pytest.raises(InputError, match=r"attention\.mask is 'causul'; expected one of .*causal.*did you mean causal"):
        masks.mask("causul")


@pytest.mark.parametrize(
    "settings", [{"mask": "full"}, {}, {"window": 3}, {"mask": "full", "window": 2}, {"same_length": True, "window": 4}]
)
def test_a_band_is_its_mask(settings):
    mask = masks.of_config(AttentionConfig(**settings), 2)
    distance = np.arange(9)[None] - np.arange(9)[:, None]
    before, after = (9 if limit is None else limit for limit in mask.band)
    expected = (distance >= -before) & (distance <= after)
    positions = TokenPositions(np.arange(9)[:, None]), TokenPositions(np.arange(9)[None])
    np.testing.assert_array_equal(np.ones((9, 9), bool) if mask.allow is None else mask.allow(*positions), expected)


def test_other_masks_are_no_bands():
    for settings in ({"stride": 3}, {"window": 2, "stride": 3}, {"mask": "prefix"}):
        assert masks.of_config(AttentionConfig(**settings)).band is None


def test_masks_over_consecutive_positions_are_masks_over_indices():
    assert Visibility().shift(4, 4) == 0
    restarting = jnp.array([[0, 1, 0, 1]])
    segments = jnp.array([[1, 1, 2, 2]])
    packed = Visibility(query_positions=restarting, key_positions=restarting, query_segments=segments)
    assert packed.shift(4, 4) is None
    assert packed.replace(consecutive=True).shift(4, 4) == 0
    # Three earlier tokens; without segments, restarting positions are no indices.
    past = lambda visibility: recurrence.prepend_past(visibility, 4, 3).shift(4, 7)
    assert past(Visibility(consecutive=True)) == 3
    assert past(packed.replace(consecutive=True)) is None
    assert past(packed.replace(consecutive=True, query_segments=None)) == 3
