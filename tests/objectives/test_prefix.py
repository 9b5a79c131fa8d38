"""Prefix language modelling: source and target are the two parts of the text, cut where the rate says."""

import dataclasses

import numpy as np
import pytest
import tiny

from lm_jax.core.config import InputError
from lm_jax.objectives.prefix import Prefix, PrefixConfig

VOCABULARY = dataclasses.replace(tiny.VOCABULARY, pieces=tuple(f"p{i}" for i in range(64)))
ROWS = 10_000


def parts(prefix, features):
    """Source and target without padding."""
    if prefix.kind == "decoder":
        source = features["tokens"][: features["prefix"]]
    else:
        source = features["source"][features["source_segments"] > 0]
    return source, features["targets"][features["weights"] > 0]


@pytest.mark.parametrize("kind", ["encoder_decoder", "decoder"])
@pytest.mark.parametrize("mode", ["", "p9"])
def test_source_and_target_are_the_text(kind, mode):
    prefix = Prefix(PrefixConfig(mode=mode), VOCABULARY, 32, kind)
    opening, sizes = [9] if mode else [], []
    for seed in range(200):
        count = prefix.reads.length if seed < 100 else 1 + seed % 20
        tokens = np.random.default_rng(seed).integers(*VOCABULARY.ordinary, count)
        source, target = parts(prefix, prefix.features({"tokens": tokens}, np.random.default_rng(seed)))
        np.testing.assert_array_equal(source[: len(opening)], opening)
        assert source[-1] == target[-1] == VOCABULARY.eos
        np.testing.assert_array_equal(np.concatenate([source[len(opening) : -1], target[:-1]]), tokens)
        assert len(target) >= 2 and (count == 1 or len(source) >= len(opening) + 2)
        sizes.append(len(source))
    if kind == "encoder_decoder":
        assert max(sizes) == 32, "the longest source fills the row"


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("rate", [0.5, 0.25])
def test_the_length_of_the_target_is_uniform(rate):
    prefix, rng = Prefix(PrefixConfig(rate=rate), VOCABULARY, 64), np.random.default_rng(0)
    count = prefix.reads.length
    row = {"tokens": np.arange(count) % 49 + 7}
    lengths = np.array([int(prefix.features(row, rng)["weights"].sum()) - 1 for _ in range(ROWS)])
    longest = round(2 * rate * count) if rate < 0.5 else count - 1
    assert (lengths.min(), lengths.max()) == (1, longest) and prefix.target_length == longest + 1
    shares = np.bincount(lengths, minlength=longest + 1)[1:] / ROWS
    assert np.abs(shares - 1 / longest).max() < 5 * (1 / longest / ROWS) ** 0.5


def test_invalid_settings_are_refused():
    with pytest.raises(InputError, match=r"config\.objective\.prefix\.rate is 0\.6; expected a share above 0"):
        PrefixConfig(rate=0.6)
    with pytest.raises(InputError, match=r"config\.data\.length is 1; expected at least 2: two tokens"):
        Prefix(PrefixConfig(), VOCABULARY, 1)
    with pytest.raises(InputError, match=r"config\.objective\.prefix\.mode is '\[S2S\]', which is no piece"):
        Prefix(PrefixConfig(mode="[S2S]"), VOCABULARY, 8)
