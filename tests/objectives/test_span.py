"""Span corruption: the source and the target together contain the whole text, and have T5's lengths."""

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


def reassembled(features):
    """The source, with every sentinel replaced by its span of the target."""
    target = features["targets"][features["weights"] > 0]
    assert target[-1] == VOCABULARY.eos
    starts = np.flatnonzero(target >= VOCABULARY.sentinels[0])
    spans = {int(ids[0]): ids[1:] for ids in np.split(target[:-1], starts[1:])}
    source = features["source"][features["source_segments"] > 0]
    assert source[-1] == VOCABULARY.eos
    return np.concatenate([spans.get(int(token), [token]) for token in source[:-1]])


CONFIGS = [SpanConfig(), SpanConfig(rate=0.5, mean_span=5.0), SpanConfig(mean_span=1.0)]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("length", [3, 8, 32, 129])
def test_source_and_target_reassemble_the_text(config, length):
    span = Span(config, VOCABULARY, length)
    for seed in range(10):
        tokens, features = corrupted(span, span.reads.length, seed)
        np.testing.assert_array_equal(reassembled(features), tokens)


def test_short_rows_reassemble_too():
    span = Span(SpanConfig(), VOCABULARY, 64)
    for count in range(1, span.reads.length):
        tokens, features = corrupted(span, count)
        np.testing.assert_array_equal(reassembled(features), tokens)
        assert not features["source"][features["source_segments"] == 0].any()
        assert not features["targets"][features["weights"] == 0].any()


@pytest.mark.parametrize("config", CONFIGS)
def test_a_mode_token_begins_the_source_of_either_kind_of_model_and_the_text_reassembles(config):
    vocabulary = dataclasses.replace(VOCABULARY, before=(VOCABULARY.bos,), pieces=("a", "[R]"))
    encoder_decoder, decoder = (
        Span(dataclasses.replace(config, mode="[R]"), vocabulary, 64, kind) for kind in ("encoder_decoder", "decoder")
    )
    for count in (1, 2, 17, decoder.reads.length):
        tokens, features = corrupted(encoder_decoder, count)
        source = features["source"][features["source_segments"] > 0]
        assert source[:2].tolist() == [VOCABULARY.bos, 1]
        stripped = {**features, "source": source[2:], "source_segments": np.ones(len(source) - 2)}
        np.testing.assert_array_equal(reassembled(stripped), tokens)
        joined = corrupted(decoder, count)[1]
        used, target = np.flatnonzero(joined["weights"]), features["targets"][features["weights"] > 0]
        np.testing.assert_array_equal(joined["tokens"][: joined["prefix"]], source)
        np.testing.assert_array_equal(joined["targets"][used], target)
    _, features = corrupted(encoder_decoder, encoder_decoder.reads.length)
    assert features["source_segments"].all() or encoder_decoder.reads.length < 64


def test_512_tokens_of_source_need_568_of_text_and_114_of_target():
    span = Span(SpanConfig(), VOCABULARY, 512)
    assert (span.reads.length, span.target_length) == (568, 114)
    _, features = corrupted(span, 568)
    assert features["source_segments"].all() and features["weights"].all()


def test_fifteen_percent_are_removed_in_spans_of_three():
    span = Span(SpanConfig(), VOCABULARY, 512)
    _, features = corrupted(span, 568)
    target = features["targets"]
    assert (target >= 1000).sum() == 28
    assert (target < 1000).sum() - 1 == 85


def test_sentinels_are_in_order_in_source_and_target():
    span = Span(SpanConfig(), VOCABULARY, 128)
    _, features = corrupted(span, span.reads.length)
    for side in (features["source"], features["targets"]):
        sentinels = side[side >= 1000]
        np.testing.assert_array_equal(sentinels, 1000 + np.arange(len(sentinels)))


def test_texts_begin_with_an_unmasked_token():
    span = Span(SpanConfig(), VOCABULARY, 32)
    for seed in range(30):
        tokens, features = corrupted(span, span.reads.length, seed)
        assert features["source"][0] == tokens[0]


def test_the_decoder_reads_the_target_shifted_right():
    _, features = corrupted(Span(SpanConfig(), VOCABULARY, 32), 20)
    assert features["tokens"][0] == VOCABULARY.pad
    count = int(features["weights"].sum())
    np.testing.assert_array_equal(features["tokens"][1:count], features["targets"][: count - 1])


def test_corruption_is_a_function_of_the_generator():
    span = Span(SpanConfig(), VOCABULARY, 64)
    first, again, other = corrupted(span, 60, 1)[1], corrupted(span, 60, 1)[1], corrupted(span, 60, 2)[1]
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["source"], other["source"])


@pytest.mark.usefixtures("untyped")
def test_every_position_is_removed_equally_often():
    span = Span(SpanConfig(rate=0.5, mean_span=2.0), VOCABULARY, 32)
    count, removed = span.reads.length, 0
    for seed in range(2000):
        features = span.features({"tokens": np.arange(7, 7 + count)}, np.random.default_rng(seed))
        removed = removed + ~np.isin(np.arange(7, 7 + count), features["source"])
    shares = removed[count // 4 : -count // 4] / 2000
    # Without the ends: the first token is never removed, the last always. Tolerance: 5 standard errors of 1.1 %.
    np.testing.assert_allclose(shares, 0.5, atol=0.06)


def test_too_few_sentinels_are_refused_with_the_number_needed():
    few = dataclasses.replace(VOCABULARY, sentinels=VOCABULARY.sentinels[:10])
    with pytest.raises(
        InputError, match=r"need 28 sentinels, the tokenizer has 10; set config\.data\.tokenizer\.sentinels=28"
    ):
        Span(SpanConfig(), few, 512)


def test_rows_too_short_for_a_span_are_refused():
    with pytest.raises(InputError, match=r"config\.data\.length is 2; expected at least 3: a token, a sentinel"):
        Span(SpanConfig(), VOCABULARY, 2)
    with pytest.raises(InputError, match=r"is 4; expected at least 5: a token, a sentinel, special tokens and the t"):
        Span(SpanConfig(), VOCABULARY, 4, "decoder")


@pytest.mark.parametrize("settings", [{"rate": 0.0}, {"rate": 1.0}, {"mean_span": 0.5}])
def test_invalid_settings_are_refused(settings):
    with pytest.raises(InputError, match=r"config\.objective\.span\."):
        SpanConfig(**settings)


@pytest.mark.parametrize("length", [4, 16, 18, 24])
def test_short_rows_are_masked_at_every_position(length):
    objective = Span(SpanConfig(), VOCABULARY, length)
    tokens = np.arange(7, 7 + objective.reads.length, dtype=np.int32)
    maskings = set()
    for seed in range(200):
        row = objective.features({"tokens": tokens}, np.random.default_rng(seed))
        np.testing.assert_array_equal(reassembled(row), tokens)
        maskings.add(tuple(row["source"]))
    noise = int((~np.isin(tokens, row["source"])).sum())
    assert len(maskings) == len(tokens) - noise + 1


def test_rows_with_every_other_token_removed_begin_with_a_span_or_with_a_token():
    objective = Span(SpanConfig(rate=0.5, mean_span=1.0), VOCABULARY, 13)
    tokens = np.arange(7, 7 + objective.reads.length, dtype=np.int32)
    rows = [objective.features({"tokens": tokens}, np.random.default_rng(seed)) for seed in range(20)]
    assert len({tuple(row["source"]) for row in rows}) == 2
