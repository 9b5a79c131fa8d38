"""Causal targets are the tokens shifted by one, and padding has no weight."""

import numpy as np
import tiny

from lm_jax.objectives.causal import Causal, CausalConfig

CAUSAL = Causal(CausalConfig(), tiny.VOCABULARY, 8)


def features(count):
    return CAUSAL.features({"tokens": np.arange(10, 10 + count, dtype=np.int32)}, np.random.default_rng(0))


def test_every_token_but_the_first_is_predicted_from_those_before_it():
    row = features(CAUSAL.reads.length)
    np.testing.assert_array_equal(row["tokens"], np.arange(10, 18))
    np.testing.assert_array_equal(row["targets"], np.arange(11, 19))
    assert row["weights"].sum() == 8


def test_rows_overlap_by_the_last_target():
    assert CAUSAL.reads.length - CAUSAL.reads.overlap == CAUSAL.length


def test_padding_has_no_weight():
    row = features(5)
    np.testing.assert_array_equal(row["targets"], [11, 12, 13, 14, 0, 0, 0, 0])
    np.testing.assert_array_equal(row["weights"], [1, 1, 1, 1, 0, 0, 0, 0])


def test_a_row_of_one_token_predicts_nothing():
    assert features(1)["weights"].sum() == 0
