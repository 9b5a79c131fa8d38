"""Span corruption: source and target together are the text, in T5's lengths."""

import dataclasses

import numpy as np
import pytest
import tiny

from lm_jax.core.config import InputError
from lm_jax.objectives.span import Span, SpanConfig

VOCABULARY = dataclasses.replace(tiny.VOCABULARY, size=1100, sentinels=tuple(range(1000, 1100)), ordinary=(7, 1000))


def corrupted(span, count, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(*VOCABULARY.ordinary, count).astype(np.int32)
    return tokens, span.features({"tokens": tokens}, rng)


def reassembled(made):
    """The text: every sentinel of the source replaced by its span of the target."""
    target = made["targets"][made["weights"] > 0]
    assert target[-1] == VOCABULARY.eos
    starts = np.flatnonzero(target >= VOCABULARY.sentinels[0])
    spans = {int(part[0]): part[1:] for part in np.split(target[:-1], starts[1:])}
    source = made["source"][made["segments"] > 0]
    assert source[-1] == VOCABULARY.eos
    return np.concatenate([spans.get(int(token), [token]) for token in source[:-1]])


@pytest.mark.parametrize("config", [SpanConfig(), SpanConfig(rate=0.5, mean_span=5.0), SpanConfig(mean_span=1.0)])
@pytest.mark.parametrize("length", [3, 8, 32, 129])
def test_source_and_target_reassemble_the_text(config, length):
    span = Span(config, VOCABULARY, length)
    for seed in range(10):
        tokens, made = corrupted(span, span.reads.length, seed)
        np.testing.assert_array_equal(reassembled(made), tokens)


def test_short_rows_reassemble_too():
    span = Span(SpanConfig(), VOCABULARY, 64)
    for count in range(1, span.reads.length):
        tokens, made = corrupted(span, count)
        np.testing.assert_array_equal(reassembled(made), tokens)
        assert not made["source"][made["segments"] == 0].any()
        assert not made["targets"][made["weights"] == 0].any()


def test_512_tokens_of_source_need_568_of_text_and_114_of_target():
    span = Span(SpanConfig(), VOCABULARY, 512)
    assert (span.reads.length, span.target_length()) == (568, 114)
    _, made = corrupted(span, 568)
    assert made["segments"].all() and made["weights"].all()


def test_fifteen_percent_are_removed_in_spans_of_three():
    span = Span(SpanConfig(), VOCABULARY, 512)
    _, made = corrupted(span, 568)
    target = made["targets"]
    assert (target >= 1000).sum() == 28
    assert (target < 1000).sum() - 1 == 85


def test_sentinels_stand_in_order_on_both_sides():
    span = Span(SpanConfig(), VOCABULARY, 128)
    _, made = corrupted(span, span.reads.length)
    for side in (made["source"], made["targets"]):
        sentinels = side[side >= 1000]
        np.testing.assert_array_equal(sentinels, 1000 + np.arange(len(sentinels)))


def test_texts_begin_with_a_kept_token():
    span = Span(SpanConfig(), VOCABULARY, 32)
    for seed in range(30):
        tokens, made = corrupted(span, span.reads.length, seed)
        assert made["source"][0] == tokens[0]


def test_the_decoder_reads_the_target_one_step_late():
    _, made = corrupted(Span(SpanConfig(), VOCABULARY, 32), 20)
    assert made["tokens"][0] == VOCABULARY.pad
    count = int(made["weights"].sum())
    np.testing.assert_array_equal(made["tokens"][1:count], made["targets"][: count - 1])


def test_corruption_is_a_function_of_the_generator():
    span = Span(SpanConfig(), VOCABULARY, 64)
    first, again, other = corrupted(span, 60, 1)[1], corrupted(span, 60, 1)[1], corrupted(span, 60, 2)[1]
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["source"], other["source"])


def test_every_place_is_removed_equally_often():
    span = Span(SpanConfig(rate=0.5, mean_span=2.0), VOCABULARY, 32)
    count, removed = span.reads.length, 0
    for seed in range(2000):
        made = span.features({"tokens": np.arange(7, 7 + count)}, np.random.default_rng(seed))
        removed = removed + ~np.isin(np.arange(7, 7 + count), made["source"])
    shares = removed[count // 4 : -count // 4] / 2000
    # Away from the ends, where a kept token must stand first and a removed one last; 5 standard errors of 1.1 %.
    np.testing.assert_allclose(shares, 0.5, atol=0.06)


def test_too_few_sentinels_are_refused_with_the_number_needed():
    few = dataclasses.replace(VOCABULARY, sentinels=VOCABULARY.sentinels[:10])
    with pytest.raises(
        InputError, match=r"need 28 sentinels, the tokenizer has 10; set config\.data\.tokenizer\.sentinels=28"
    ):
        Span(SpanConfig(), few, 512)


def test_rows_that_hold_no_span_are_refused():
    with pytest.raises(InputError, match=r"config\.data\.length is 2; a corrupted row needs at least 3"):
        Span(SpanConfig(), VOCABULARY, 2)


@pytest.mark.parametrize("settings", [{"rate": 0.0}, {"rate": 1.0}, {"mean_span": 0.5}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(InputError, match=r"config\.objective\.span\."):
        SpanConfig(**settings)


@pytest.mark.parametrize("length", [4, 16, 18, 24])
def test_short_rows_are_masked_in_every_place(length):
    objective = Span(SpanConfig(), VOCABULARY, length)
    tokens = np.arange(7, 7 + objective.reads.length, dtype=np.int32)
    maskings = set()
    for seed in range(200):
        row = objective.features({"tokens": tokens}, np.random.default_rng(seed))
        np.testing.assert_array_equal(reassembled(row), tokens)
        maskings.add(tuple(row["source"]))
    noise = int((~np.isin(tokens, row["source"])).sum())
    assert len(maskings) == len(tokens) - noise + 1


def test_spans_of_one_token_between_single_tokens_begin_at_either():
    objective = Span(SpanConfig(rate=0.5, mean_span=1.0), VOCABULARY, 13)
    tokens = np.arange(7, 7 + objective.reads.length, dtype=np.int32)
    rows = [objective.features({"tokens": tokens}, np.random.default_rng(seed)) for seed in range(20)]
    assert len({tuple(row["source"]) for row in rows}) == 2
