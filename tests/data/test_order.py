import json

import numpy as np
import pytest

from lm_jax.data import order


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 1000, 1023, 1024, 1025, 65_537])
@pytest.mark.parametrize("key", [0, 1, 2**63 + 5])
def test_a_permutation_visits_every_row_once(count, key):
    permuted = order.permute(np.arange(count), count, key)

    assert np.array_equal(np.sort(permuted), np.arange(count))


def test_a_permutation_depends_on_its_arguments_only():
    permuted = order.permute(np.arange(5000), 5000, 11)

    pieces = [order.permute(np.arange(start, start + 50), 5000, 11) for start in range(0, 5000, 50)]

    assert np.array_equal(np.concatenate(pieces), permuted)
    assert int(order.permute(4321, 5000, 11)) == permuted[4321]
    assert [order.permute_one(index, 5000, 11) for index in range(5000)] == permuted.tolist()


def test_permutations_of_other_keys_look_unrelated():
    count = 10_000
    first, second = (order.permute(np.arange(count), count, key) for key in (order.key(0, 0), order.key(0, 1)))

    # Two random permutations agree in one place on average, and in 12 or more places once in 10^9 cases.
    assert (first == second).sum() < 12
    assert (first == np.arange(count)).sum() < 12
    # The correlation of neighbours in a random permutation is within 5 / sqrt(count).
    assert abs(np.corrcoef(first, np.arange(count))[0, 1]) < 0.05
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.05


def test_every_small_permutation_occurs():
    permutations = {tuple(order.permute(np.arange(3), 3, order.key(7, epoch)).tolist()) for epoch in range(200)}

    assert len(permutations) == 6


def test_ranges_beyond_four_billion_are_permuted():
    count = 10**15 + 7
    permuted = order.permute(np.arange(count - 1000, count), count, 3)

    assert len(set(permuted.tolist())) == 1000
    assert permuted.min() >= 0 and permuted.max() < count


def test_an_index_outside_the_range_is_refused():
    with pytest.raises(ValueError, match=r"0\.\.9"):
        order.permute(np.array([10]), 10, 0)


def test_orders_equal_those_of_earlier_versions(golden):
    expected = json.loads((golden / "order.json").read_text())

    for name, permuted in expected["permute"].items():
        count, key = map(int, name.split())
        assert order.permute(np.arange(len(permuted)), count, key).tolist() == permuted
    assert [order.key(0, 0), order.key(0, 1), order.key(1, 0), order.key(2**40, 3)] == expected["key"]
    assert order.generator(7, 2, 11).bit_generator.random_raw(4).tolist() == expected["philox"]


def test_rows_have_different_generators():
    draws = {
        order.generator(seed, epoch, row).integers(2**62) for seed in (0, 1) for epoch in (0, 1) for row in range(50)
    }

    assert len(draws) == 200


def test_keys_of_arrays_equal_keys_of_integers():
    seeds, rows = np.array([0, 7, 2**64 - 1], np.uint64), np.array([5, 0, 2**40])

    for words, seed, row in zip(order.keys(seeds, np.array([3]), rows), seeds.tolist(), rows.tolist(), strict=True):
        assert words.tolist() == list(divmod(order.key(seed, 3, row), 2**32))
