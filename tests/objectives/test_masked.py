"""BERT's masking: which and how many tokens are chosen, and how they are replaced."""

import numpy as np
import pytest
import tiny

from lm_jax.core.config import InputError
from lm_jax.objectives.masked import Masked, MaskedConfig

VOCABULARY = tiny.VOCABULARY
PAIRS = Masked(MaskedConfig(), VOCABULARY, 128)
PACKED = Masked(MaskedConfig(next_sentence=False), VOCABULARY, 128)


def text(rng, count):
    """`count` ordinary tokens, 5 % of them replaced by EOS."""
    tokens = rng.integers(*VOCABULARY.ordinary, count).astype(np.int32)
    tokens[rng.random(count) < 0.05] = VOCABULARY.eos
    return tokens


def pair(seed, first=60, second=65):
    rng = np.random.default_rng(seed)
    row = {"first": text(rng, first), "second": text(rng, second), "is_next": np.int32(seed % 2)}
    return row, PAIRS.features(row, rng)


def chosen(row):
    count = int(row["weights"].sum())
    return row["positions"][:count], row["labels"][:count]


def unmasked(row):
    """The tokens of a row before masking."""
    cls, sep = VOCABULARY.cls, VOCABULARY.sep
    return np.concatenate([[cls], row["first"], [sep], row["second"], [sep]])


def test_a_row_is_two_sentences_between_special_tokens():
    row, features = pair(0)
    before = unmasked(row)
    assert len(before) == 128
    rest = np.setdiff1d(np.arange(128), chosen(features)[0])
    np.testing.assert_array_equal(features["tokens"][rest], before[rest])
    np.testing.assert_array_equal(features["types"], [0] * 62 + [1] * 66)
    assert features["segments"].all() and features["is_next"] == 0 and features["pairs"] == 1


def test_labels_are_the_original_tokens():
    for seed in range(20):
        row, features = pair(seed)
        positions, labels = chosen(features)
        np.testing.assert_array_equal(labels, unmasked(row)[positions])
        assert len(set(positions)) == len(positions)


def test_special_tokens_are_never_chosen():
    for seed in range(50):
        special = {VOCABULARY.cls, VOCABULARY.sep, VOCABULARY.eos, VOCABULARY.pad}
        assert not special & set(chosen(pair(seed)[1])[1].tolist())


def test_fifteen_percent_of_the_ordinary_tokens_are_chosen():
    for seed, size in ((0, 65), (1, 30), (2, 3)):
        row, features = pair(seed, second=size)
        ordinary = np.isin(unmasked(row), np.arange(*VOCABULARY.ordinary)).sum()
        assert features["weights"].sum() == max(1, round(0.15 * ordinary))


@pytest.mark.usefixtures("untyped")
def test_of_the_chosen_eighty_percent_are_masked_ten_random_and_ten_unchanged():
    rng, (row, features) = np.random.default_rng(0), pair(0)
    count = len(chosen(features)[0])
    rows = [PAIRS.features(row, rng) for _ in range(10_000)]
    tokens, positions, labels = (np.stack([row[name] for row in rows]) for name in ("tokens", "positions", "labels"))
    read, labels = np.take_along_axis(tokens, positions, 1)[:, :count], labels[:, :count]
    masked, unchanged, total = (read == VOCABULARY.mask).sum(), (read == labels).sum(), labels.size
    # Tolerance: 5 standard errors, each at most 0.1 % with 170,000 draws. One in 49 random tokens is the unmasked.
    assert masked / total == pytest.approx(0.8, abs=0.005)
    assert unchanged / total == pytest.approx(0.1 + 0.1 / 49, abs=0.004)


def test_random_replacements_are_ordinary_tokens():
    for seed in range(100):
        _, features = pair(seed)
        positions, labels = chosen(features)
        replacements = features["tokens"][positions]
        replacements = replacements[(replacements != VOCABULARY.mask) & (replacements != labels)]
        assert ((replacements >= VOCABULARY.ordinary[0]) & (replacements < VOCABULARY.ordinary[1])).all()


def test_masking_is_a_function_of_the_generator():
    first, again, other = pair(3)[1], pair(3)[1], pair(4)[1]
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["positions"], other["positions"])


def test_features_do_not_modify_the_row():
    row, _ = pair(5)
    np.testing.assert_array_equal(row["first"], text(np.random.default_rng(5), 60))


def test_short_rows_are_padded_and_padding_has_no_weight():
    _, features = pair(0, first=5, second=4)
    assert features["segments"].sum() == 12
    assert not features["tokens"][12:].any()
    assert features["weights"].sum() == 1
    assert not features["positions"][1:].any() and not features["labels"][1:].any()


def test_a_text_without_ordinary_tokens_predicts_nothing():
    features = PACKED.features({"tokens": np.full(4, VOCABULARY.eos, np.int32)}, np.random.default_rng(0))
    assert features["weights"].sum() == 0


def test_packed_text_fills_the_row_and_has_no_pairs():
    tokens = text(np.random.default_rng(0), PACKED.reads.length)
    features = PACKED.features({"tokens": tokens}, np.random.default_rng(0))
    assert features["segments"].all() and "is_next" not in features
    assert features["tokens"][0] == VOCABULARY.cls and features["tokens"][-1] == VOCABULARY.sep
    assert (PACKED.reads.plan, PACKED.terms) == ("packed", ("masked_lm_loss",))
    assert (PAIRS.reads.plan, PAIRS.terms) == ("pairs", ("masked_lm_loss", "next_sentence_loss"))


@pytest.mark.parametrize("settings", [{"rate": 0.0}, {"rate": 1.0}, {"mask": 0.9, "random": 0.2}, {"random": -0.1}])
def test_invalid_shares_are_refused(settings):
    with pytest.raises(InputError, match=r"config\.objective\.masked\."):
        MaskedConfig(**settings)
