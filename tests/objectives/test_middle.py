"""Fill-in-the-middle: the parts of a transformed document are the document, and are drawn as the paper draws them."""

import dataclasses
import functools

import numpy as np
import pytest
import tiny

from lm_jax.core.config import InputError
from lm_jax.objectives.causal import Causal, CausalConfig
from lm_jax.objectives.middle import Middle, MiddleConfig

PREFIX, SUFFIX, MIDDLE = MARKERS = (53, 54, 55)
VOCABULARY = tiny.MARKED
EOS, BOS = VOCABULARY.eos, VOCABULARY.bos
ROWS, TEXT = 10_000, np.arange(10, 19, dtype=np.int32)


@functools.cache
def transformed(rate, suffix_first):
    """Rows with the same document, and with room for its markers."""
    middle, rng = Middle(MiddleConfig(rate=rate, suffix_first=suffix_first), VOCABULARY), np.random.default_rng(0)
    return [middle.rearrange(np.append(TEXT, EOS), 16, rng).tolist() for _ in range(ROWS)]


def parts(document):
    """Prefix, middle and suffix of a transformed document, and what stands before its markers."""
    prefix, suffix, middle = (document.index(marker) for marker in MARKERS)
    assert sum(token in MARKERS for token in document) == 3
    return document[prefix + 1 : suffix], document[middle + 1 :], document[suffix + 1 : middle], document[:prefix]


def original(row):
    """The text of a row, in both orders of the parts, and the number of its transformed documents."""
    text, count, ends = [], 0, np.flatnonzero(row == EOS) + 1
    for document in np.split(row, ends):
        ids = document[document != EOS].tolist()
        if PREFIX in ids:
            first, second, third, before = parts(ids)
            ids, count = before + first + second + third, count + 1
            assert before in ([], list(VOCABULARY.before), [BOS]) and first + second + third
        text += ids + [EOS] * (EOS in document)
    return text, count


@pytest.mark.parametrize("before", [(), (BOS,)])
def test_the_parts_of_every_row_reassemble_its_text(before):
    rng = np.random.default_rng(1)
    for _ in range(1000):
        middle = Middle(MiddleConfig(rate=0.7), dataclasses.replace(VOCABULARY, before=before))
        tokens = rng.integers(*VOCABULARY.ordinary, rng.integers(1, 40)).astype(np.int32)
        ends = np.flatnonzero(rng.random(len(tokens)) < rng.choice([0, 0.1, 0.4]))
        tokens[ends] = EOS
        if before:
            tokens[np.minimum(ends + 1, len(tokens) - 1)] = BOS

        row = middle.rearrange(tokens, len(tokens), rng)

        text, count = original(row)
        # Only the end of the text is missing, as many tokens as there are markers.
        assert text == tokens.tolist()[: len(text)] and len(row) == len(text) + 3 * count == len(tokens)


def test_a_document_without_room_for_its_markers_and_a_token_stays_as_it_is():
    middle = Middle(MiddleConfig(rate=1.0), VOCABULARY)
    rows = [middle.rearrange(TEXT, most, np.random.default_rng(0)) for most in (2, 3, 4)]
    assert [row.tolist() for row in rows[:2]] == [[10, 11], [10, 11, 12]]
    assert original(rows[2]) == ([10], 1)


def test_the_share_of_transformed_documents_is_the_rate():
    share = np.mean([PREFIX in row for row in transformed(rate=0.6, suffix_first=0.0)])
    # Five standard errors.
    assert share == pytest.approx(0.6, abs=5 * (0.6 * 0.4 / ROWS) ** 0.5)


def test_the_share_of_suffixes_before_prefixes_is_the_configured_one():
    orders = np.mean([row[1] == SUFFIX for row in transformed(rate=1.0, suffix_first=0.25)])
    # Both orders begin with two markers if the prefix is empty: if a position, of ten, is the first.
    empty = 1 - 0.9**2
    assert orders == pytest.approx(0.25 + 0.75 * empty, abs=5 * (0.4 * 0.6 / ROWS) ** 0.5)


def test_both_positions_that_divide_a_document_are_uniform():
    counts = np.zeros((10, 10))
    for row in filter(lambda row: PREFIX in row, transformed(rate=0.6, suffix_first=0.0)):
        first, second, _, _ = parts(row[:-1])
        counts[len(first), len(first) + len(second)] += 1
    expected = np.triu(np.full((10, 10), 2.0), 1) + np.eye(10)
    np.testing.assert_array_equal(counts[expected == 0], 0)
    expected *= counts.sum() / 100
    # Pearson's statistic of 55 cells has mean 54 and standard deviation 10.4.
    assert ((counts - expected) ** 2 / np.maximum(expected, 1)).sum() < 54 + 5 * 10.4


def test_a_row_of_the_objective_is_as_long_as_without_and_all_of_it_is_predicted():
    causal = Causal(CausalConfig(middle=MiddleConfig(rate=1.0)), VOCABULARY, 12)
    features = causal.features({"tokens": np.arange(10, 23)}, np.random.default_rng(0))
    row = np.append(features["tokens"][:1], features["targets"])
    assert original(row) == (list(range(10, 20)), 1)
    assert features["weights"].all() and causal.text is None


def test_missing_and_equal_markers_are_refused():
    with pytest.raises(InputError, match=r"middle\.prefix is '<PRE>', which is no piece.*tokenizer\.add='<PRE>'"):
        Causal(CausalConfig(middle=MiddleConfig(rate=0.5, prefix="<PRE>")), VOCABULARY, 8)
    with pytest.raises(InputError, match="name the same piece; expected three different pieces"):
        Middle(MiddleConfig(rate=0.5, prefix="<fim_suffix>"), VOCABULARY)
