"""Targets are the tokens shifted by one; documents and prefixes restrict which are predicted, and from what."""

import dataclasses

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny

from lm_jax.core.config import InputError
from lm_jax.models.model import from_module
from lm_jax.objectives.base import Part
from lm_jax.objectives.causal import Causal, CausalConfig
from lm_jax.objectives.cross_entropy import cross_entropy
from lm_jax.objectives.middle import MiddleConfig

EOS = tiny.VOCABULARY.eos
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


# Documents of 3 and 4 tokens, EOS included, between parts of two others: the row begins and ends inside a document.
PARTS = [[10, 11, EOS], [12, 13, EOS], [14, 15, 16, EOS], [17, 18, 19]]
PACKED = {"tokens": np.concatenate(PARTS).astype(np.int32)}
DOCUMENTS = Causal(CausalConfig(documents=True), tiny.VOCABULARY, 15)
AFTER_PREFIX = Causal(CausalConfig(prefix=True), tiny.VOCABULARY, 15)
BOTH = Causal(CausalConfig(documents=True, middle=MiddleConfig(rate=0.5)), tiny.MARKED, 15)
QUICK = {"embed.width": 16, "embed.max_length": 16, "stack.depth": 1, "stack.block.feedforward.width": 16}


def test_documents_are_numbered_and_their_positions_begin_at_zero():
    row = DOCUMENTS.features(PACKED, np.random.default_rng(0))
    np.testing.assert_array_equal(row["segments"], [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 0, 0, 0])
    np.testing.assert_array_equal(row["positions"], [0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(row["weights"], [1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 0, 0, 0])
    first = DOCUMENTS.features({"tokens": PACKED["tokens"][2:]}, np.random.default_rng(0))
    assert (first["segments"][0], first["weights"][0], first["positions"][1]) == (1, 0, 0)


@pytest.mark.parametrize("before", [(), (tiny.VOCABULARY.bos,)])
def test_overlapping_rows_predict_all_of_a_document_but_its_first_token_once(before):
    rng = np.random.default_rng(0)
    causal = dataclasses.replace(DOCUMENTS, vocabulary=dataclasses.replace(tiny.VOCABULARY, before=before))
    texts = [[*before, *(7 + rng.permutation(40)[:count]), EOS] for count in rng.integers(1, 12, 40)]
    text, size = np.concatenate(texts).astype(np.int32), causal.length
    rows = [causal.features({"tokens": text[at : at + size + 1]}, rng) for at in range(0, len(text) - 1, size)]
    predicted = [row["targets"][row["weights"] > 0] for row in rows]
    np.testing.assert_array_equal(np.concatenate(predicted), np.concatenate([document[1:] for document in texts]))
    # A special id is no text: bits per byte are those of the text exactly if a document begins with one.
    assert (causal.text is None) == (not before)


@pytest.mark.usefixtures("untyped")
def test_lengths_of_prefixes_are_uniform_and_the_tokens_after_them_are_predicted():
    rng, row = np.random.default_rng(0), {"tokens": np.arange(10, 19)}
    rows = [AFTER_PREFIX.features(row, rng) for _ in range(10_000)]
    lengths = np.array([features["prefix"] for features in rows])
    # Lengths 1 to 8: five standard errors of 1,250 rows each.
    counts = np.bincount(lengths, minlength=9)
    np.testing.assert_allclose(counts[1:], 1250, atol=5 * (1250 * 7 / 8) ** 0.5)
    for features, length in zip(rows[:50], lengths[:50], strict=True):
        np.testing.assert_array_equal(features["targets"][features["weights"] > 0], row["tokens"][length:])
    assert AFTER_PREFIX.text is None
    assert AFTER_PREFIX.features({"tokens": np.array([10])}, rng)["weights"].sum() == 0


def losses(causal, row, **over):
    """-log P of a row's targets as a function of its embedded inputs; these inputs; and the objective's loss."""
    batch = {name: jnp.asarray(value)[None] for name, value in row.items()}
    inputs = causal.inputs(batch)
    model, params = tiny.build(tiny.config("gpt2", over={**QUICK, **over}), inputs)
    bound = from_module(model).bind(params)

    def of_targets(embedded):
        logits = bound(inputs.replace(embedded=embedded), logits=True).logits
        return cross_entropy(logits, batch["targets"])[0]

    loss = lambda: causal.loss({"model": bound}, Part(batch=batch, weights=causal.weights(batch))).total
    return of_targets, params["token"]["embedding"][batch["tokens"]], loss


@pytest.mark.parametrize(
    ("causal", "mask", "seed"), [(DOCUMENTS, "causal", 0), (BOTH, "causal", 5), (AFTER_PREFIX, "prefix", 1)]
)
def test_targets_depend_on_their_document_or_on_their_prefix_and_on_nothing_else(causal, mask, seed):
    row = causal.features(PACKED, np.random.default_rng(seed))
    count = np.arange(causal.length)
    seen = count[None] <= count[:, None]
    if causal.config.prefix:
        assert 2 < row["prefix"] < 12
        seen |= count[None] < row["prefix"]
    else:
        segments = row["segments"]
        seen &= (segments[None] == segments[:, None]) & (segments > 0)
        assert EOS not in row["tokens"][row["weights"] > 0]
    of_targets, embedded, loss = losses(causal, row, **{"stack.block.attention.mask": mask})

    gradient, values, total = tiny.run_once(lambda x: (jax.jacrev(of_targets)(x), of_targets(x), loss()), embedded)

    influence = np.abs(np.asarray(gradient)).max((1, 3)) > 0
    used = row["weights"] > 0
    np.testing.assert_array_equal(influence[used], seen[used])
    within = np.arange(causal.length) < (row.get("prefix", 0))
    np.testing.assert_array_equal(influence[within], seen[within])
    # The device half, from the logits by numpy.
    expected = np.average(np.asarray(values, np.float64), weights=row["weights"])
    assert float(total) == pytest.approx(expected, rel=1e-5)


def test_inputs_say_that_positions_are_consecutive_in_each_segment():
    row = DOCUMENTS.features(PACKED, np.random.default_rng(0))
    inputs = DOCUMENTS.inputs({name: jnp.asarray(array)[None] for name, array in row.items()})
    assert inputs.consecutive
    for segment in range(1, 5):
        np.testing.assert_array_equal(np.diff(row["positions"][row["segments"] == segment]), 1)


def test_packed_documents_have_the_losses_that_they_have_alone():
    rows = [PACKED, *({"tokens": np.array(part, np.int32)} for part in PARTS)]
    batch = tiny.stacked([DOCUMENTS.features(row, np.random.default_rng(0)) for row in rows])
    inputs = DOCUMENTS.inputs(batch)
    model, params = tiny.build(tiny.config("gpt2", over=QUICK), inputs)
    logits = tiny.run_once(lambda params: model.apply({"params": params}, inputs, logits=True).logits, params)
    values = np.asarray(cross_entropy(logits, batch["targets"])) * np.asarray(batch["weights"])
    assert values[0].sum() == pytest.approx(values[1:].sum(), rel=1e-5)


@pytest.mark.parametrize(("causal", "mask"), [(BOTH, "causal"), (AFTER_PREFIX, "prefix")])
def test_variants_keep_the_laws(causal, mask, tmp_path):
    rng = np.random.default_rng(0)
    rows = [{"tokens": laws.text(count, count) % 46 + 7} for count in (2, 9, 16, 5, 16, 16, 3, 12)]
    for row in rows:
        row["tokens"][rng.random(len(row["tokens"])) < 0.15] = EOS
    config = tiny.config("gpt2", over={"stack.depth": 1, "stack.block.attention.mask": mask})
    laws.check(laws.case(causal, {"model": config}, rows), tmp_path)


def test_a_prefix_excludes_documents_and_fill_in_the_middle():
    for other in ({"documents": True}, {"middle": MiddleConfig(rate=0.5)}):
        with pytest.raises(InputError, match=r"causal\.prefix and .*are both set; unset one of them"):
            CausalConfig(prefix=True, **other)


def test_training_refuses_a_prefix_that_the_mask_of_the_model_ignores():
    AFTER_PREFIX.check({"model": tiny.config("gpt2", over={"stack.block.attention.mask": "prefix"})})
    DOCUMENTS.check({"model": tiny.config("gpt2")})
    with pytest.raises(InputError, match=r"causal\.prefix is set, but .*mask is causal, which ignores the prefix"):
        AFTER_PREFIX.check({"model": tiny.config("gpt2")})
