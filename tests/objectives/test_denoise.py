"""BART's noises: each changes the text as the paper says and as often as its rate; the target is the whole text."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from interop.cases import case

from lm_jax import interop
from lm_jax.core.config import InputError
from lm_jax.models.model import from_module
from lm_jax.objectives.base import Part
from lm_jax.objectives.denoise import NOISES, Denoise, DenoiseConfig
from lm_jax.objectives.roles import Models

VOCABULARY = dataclasses.replace(
    tiny.VOCABULARY, size=600, ordinary=(64, 600), pieces=tuple(f"p{i}" for i in range(600))
)
BART = dataclasses.replace(VOCABULARY, before=(VOCABULARY.bos,), start=VOCABULARY.eos)
MASK = VOCABULARY.mask
ROWS = 10_000


def objective(*noises, length=129, vocabulary=VOCABULARY, kind="encoder_decoder", **settings):
    return Denoise(DenoiseConfig(noises=noises, **settings), vocabulary, length, kind)


def text(count):
    """Distinct tokens, in order."""
    return np.arange(64, 64 + count, dtype=np.int32)


def noised(denoise, count, rows, sentences=()):
    """A noise alone, without special tokens and padding, on many rows of one text."""
    rng, (noise,) = np.random.default_rng(0), denoise._noises
    row = {"sentences": np.array(sentences, np.int64)}
    return [noise(text(count), denoise, row, rng) for _ in range(rows)]


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("name", ["mask", "delete"])
def test_thirty_percent_of_the_tokens_are_masked_or_deleted(name):
    rows = noised(objective(name), 128, ROWS)
    kept = np.concatenate(rows)
    share = 1 - np.isin(kept, text(128)).sum() / (ROWS * 128)
    # 38.4 tokens on average: 38 or 39 in every row.
    assert {128 - int((row >= 64).sum()) for row in rows} == {38, 39}
    assert share == pytest.approx(0.3, abs=5 * 0.5 / 128 / ROWS**0.5)
    every = np.bincount(kept[kept >= 64] - 64, minlength=128) / ROWS
    assert np.abs(every - 0.7).max() < 5 * (0.21 / ROWS) ** 0.5, "each position is as likely as any other"
    for row in rows[:100]:
        if name == "mask":
            assert len(row) == 128 and (row[row != MASK] == text(128)[row != MASK]).all()
        else:
            assert (np.diff(row) > 0).all() and MASK not in row


@pytest.mark.usefixtures("untyped")
def test_infilled_spans_have_poisson_lengths_and_one_mask_each():
    count = 400
    # Few spans, so that nearly all have unmasked neighbours, whose distance is the length of the span.
    rows = noised(objective("infill", length=401, rate=0.045), count, ROWS)
    ends = np.array([63]), np.array([64 + count])
    joined = np.concatenate([part for row in rows for part in (ends[0], row, ends[1])])
    at = np.flatnonzero(joined == MASK)
    at = at[(joined[at - 1] != MASK) & (joined[at + 1] != MASK)]
    lengths = joined[at + 1] - joined[at - 1] - 1
    assert len(at) > 0.95 * 6 * ROWS
    expected = np.exp(-3.0) * np.cumprod([1, *(3.0 / np.arange(1, 10))])
    expected = np.append(expected, 1 - expected.sum()) * len(at)
    observed = np.bincount(np.minimum(lengths, 10), minlength=11)
    # 10 degrees of freedom: 35.6 has a probability of 1e-4.
    assert ((observed - expected) ** 2 / expected).sum() < 35.6


def test_infilling_covers_thirty_percent_on_average_and_never_lengthens_a_full_row():
    denoise = objective("infill")
    rows = noised(denoise, 128, ROWS)
    kept = np.array([(row >= 64).sum() for row in rows])
    # The number of covered tokens has a standard deviation of about (12.8 * 3)^(1/2).
    assert 1 - kept.mean() / 128 == pytest.approx(0.3, abs=5 * 6.3 / 128 / ROWS**0.5)
    assert max(map(len, rows)) <= denoise.reads.length == 128
    # Fewer spans can cover the first and the last tokens.
    every = np.bincount(np.concatenate(rows), minlength=192)[64:] / ROWS
    assert np.abs(every[10:-10] - 0.7).max() < 0.045
    assert all((np.diff(row[row >= 64]) > 0).all() for row in rows[:200])
    short = objective("infill", length=4)
    assert max(map(len, noised(short, 3, 2000))) <= 3


def test_permutation_moves_whole_sentences():
    sentences = [5, 20, 21, 60, 100]
    rows = np.stack(noised(objective("permute"), 128, ROWS, sentences))
    starts = np.array([0, *sentences])
    pieces = np.split(text(128), sentences)
    for row in rows[:100]:
        order = np.argsort([int(np.flatnonzero(row == piece[0])[0]) for piece in pieces])
        np.testing.assert_array_equal(row, np.concatenate([pieces[index] for index in order]))
    first = np.bincount(np.searchsorted(starts, rows[:, 0] - 64), minlength=6) / ROWS
    assert np.abs(first - 1 / 6).max() < 5 * (5 / 36 / ROWS) ** 0.5
    np.testing.assert_array_equal(np.sort(rows), np.broadcast_to(text(128), rows.shape))
    np.testing.assert_array_equal(noised(objective("permute"), 9, 1, [0])[0], text(9))
    np.testing.assert_array_equal(noised(objective("permute"), 9, 1)[0], text(9))


def test_rotation_begins_anywhere():
    rows = np.stack(noised(objective("rotate"), 128, ROWS))
    shifts = rows[:, 0] - 64
    np.testing.assert_array_equal(rows, 64 + (shifts[:, None] + np.arange(128)) % 128)
    assert np.abs(np.bincount(shifts, minlength=128) / ROWS - 1 / 128).max() < 5 * (1 / 128 / ROWS) ** 0.5


@pytest.mark.parametrize("kind", ["encoder_decoder", "decoder"])
@pytest.mark.parametrize("vocabulary", [VOCABULARY, BART])
@pytest.mark.parametrize("noises", [("permute", "infill"), tuple(NOISES)])
def test_the_target_is_the_whole_text_between_special_tokens(noises, vocabulary, kind):
    denoise = objective(*noises, vocabulary=vocabulary, kind=kind, length=64, mode="p9")
    for seed, count in enumerate([denoise.reads.length] * 20 + [1, 2, 3, 9]):
        rng = np.random.default_rng(seed)
        features = denoise.features({"tokens": text(count), "sentences": np.array([count // 2])}, rng)
        target = features["targets"][features["weights"] > 0]
        before = vocabulary.before if kind == "encoder_decoder" else ()
        np.testing.assert_array_equal(target, [*before, *text(count), vocabulary.eos])
        if kind == "encoder_decoder":
            source = features["source"][features["source_segments"] > 0]
            assert features["tokens"][0] == vocabulary.decoder_start
            np.testing.assert_array_equal(features["tokens"][1 : len(target)], target[:-1])
        else:
            source = features["tokens"][: features["prefix"]]
            np.testing.assert_array_equal(features["tokens"][len(source) :][: len(target) - 1], target[:-1])
        opening = [*vocabulary.before, 9]
        np.testing.assert_array_equal(source[: len(opening)], opening)
        assert source[-1] == vocabulary.eos
        assert np.isin(source[len(opening) : -1], [*text(count), MASK]).all()


def test_only_sentences_that_are_permuted_are_read():
    assert objective("permute", "infill").reads.borders and not objective("infill").reads.borders


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noises": ("shuffle",)}, r"config\.objective\.denoise\.noises is 'shuffle'; expected one of permute, mask"),
        ({"noises": ()}, r"denoise\.noises is \(\); expected distinct names of permute"),
        ({"noises": ("mask", "mask")}, "expected distinct names"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        DenoiseConfig(**settings)


def test_a_tokenizer_without_a_mask_is_refused_only_if_a_noise_needs_it():
    without = dataclasses.replace(VOCABULARY, mask=None)
    with pytest.raises(InputError, match="'denoise' needs the special tokens mask"):
        objective("infill", vocabulary=without)
    objective("permute", "delete", vocabulary=without)
    with pytest.raises(InputError, match=r"config\.data\.length is 1; expected at least 2: a token of text"):
        objective("delete", length=1)


@pytest.mark.parity
def test_the_loss_of_bart_is_that_of_the_reference():
    folder = case("bart")
    inputs, outputs = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
    module, params = interop.load(folder)
    labels = inputs["labels"]
    batch = {
        "source": inputs["input_ids"],
        "source_segments": inputs["attention_mask"],
        "tokens": inputs["decoder_input_ids"],
        "targets": np.maximum(labels, 0),
        "weights": (labels >= 0).astype(np.float32),
    }
    batch = jax.tree.map(jnp.asarray, batch)
    denoise = objective("infill")
    models = Models(denoise.roles, {"model": from_module(module)}).bind({"model": params})
    with jax.default_matmul_precision("highest"):
        loss = denoise.loss(models, Part(batch=batch, weights=denoise.weights(batch)))
    assert float(loss.total) == pytest.approx(float(outputs["loss"]), abs=1e-5)
