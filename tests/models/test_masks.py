"""Masks are predicates with an algebra, and never say that an allowed key is out of reach."""

import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.models import masks
from lm_jax.models.masks import Mask, Visibility, causal, full


def local(window):
    """A window of keys on both sides."""
    return Mask(
        allow=lambda query, key: abs(query - key) < window,
        reach=lambda start, stop, keys: (max(0, start - window + 1), min(stop + window - 1, keys)),
    )


def prefix(length):
    """Everybody sees the first tokens."""
    return Mask(
        allow=lambda query, key: (key < length) | (query < 0), reach=lambda start, stop, keys: (0, min(length, keys))
    )


def table(mask, queries, keys):
    """A mask written out."""
    if mask.allow is None:
        return np.ones((queries, keys), bool)
    return np.asarray(mask.allow(np.arange(queries)[:, None], np.arange(keys)[None]))


FAMILIES = {
    "full": full,
    "causal": causal,
    "local": local(3),
    "causal & local": causal & local(3),
    "causal | prefix": causal | prefix(4),
    "full & causal": full & causal,
    "full | causal": full | causal,
    "(causal & local) | prefix": (causal & local(2)) | prefix(2),
}


def test_causal_is_the_lower_triangle():
    np.testing.assert_array_equal(table(causal, 5, 5), np.tri(5, dtype=bool))


@pytest.mark.parametrize("left", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("right", [full, causal, local(2)], ids=["full", "causal", "local"])
def test_and_and_or_are_those_of_the_tables(left, right):
    np.testing.assert_array_equal(table(left & right, 7, 7), table(left, 7, 7) & table(right, 7, 7))
    np.testing.assert_array_equal(table(left | right, 7, 7), table(left, 7, 7) | table(right, 7, 7))


@pytest.mark.parametrize("mask", FAMILIES.values(), ids=FAMILIES)
def test_reach_never_excludes_an_allowed_key(mask):
    for queries, keys in ((9, 9), (9, 6), (6, 9)):
        allowed = table(mask, queries, keys)
        for start in range(queries):
            for stop in range(start + 1, queries + 1):
                first, last = mask.reach(start, stop, keys)
                seen = np.flatnonzero(allowed[start:stop].any(0))
                assert not len(seen) or (first <= seen[0] and seen[-1] < last), (start, stop, keys)


def test_causal_attention_skips_the_keys_after_a_block():
    assert causal.reach(8, 12, 64) == (0, 12)


def test_segments_must_agree_and_zero_is_seen_by_nobody():
    segments = jnp.array([[1, 1, 2, 0]])
    visibility = Visibility(mask=full, query_segments=segments, key_segments=segments)
    expected = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], bool)
    np.testing.assert_array_equal(visibility.allowed(slice(0, 4), slice(0, 4))[0], expected)


def test_without_query_segments_only_padding_is_hidden():
    visibility = Visibility(mask=full, key_segments=jnp.array([[1, 2, 0]]))
    np.testing.assert_array_equal(visibility.allowed(slice(0, 2), slice(0, 3))[0], [[True, True, False]])


def test_given_positions_decide_and_not_places_in_the_row():
    places = jnp.array([[5, 6, 7]])
    cached = jnp.array([[4, 5, 6, 7, 9]])
    visibility = Visibility(mask=causal, query_positions=places, key_positions=cached)
    np.testing.assert_array_equal(
        visibility.allowed(slice(0, 3), slice(0, 5))[0], [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]
    )
    assert not visibility.counted


def test_an_unknown_mask_lists_the_known_ones():
    with pytest.raises(
        InputError, match=r"attention\.mask is 'causul', which is none of .*causal.*did you mean causal"
    ):
        masks.mask("causul")
