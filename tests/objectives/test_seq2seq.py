"""Sequence to sequence: rows of two texts, and a loss with label smoothing that only training has."""

import dataclasses
import functools
import gzip

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny
from interop.cases import case

from lm_jax import experiment, flags, interop
from lm_jax.core.config import InputError
from lm_jax.core.sums import means
from lm_jax.models.model import Bound
from lm_jax.objectives.base import Part, Vocabulary
from lm_jax.objectives.seq2seq import Seq2Seq, Seq2SeqConfig

SHORT = Seq2SeqConfig(target_length=8)


def features(source, target, *, vocabulary=tiny.VOCABULARY, length=10, kind="encoder_decoder", config=SHORT):
    """The features of a source 10, 11, ... and a target 20, 21, ... of these numbers of tokens, as they are read."""
    objective = Seq2Seq(config, vocabulary, length, kind)
    most = objective.reads.columns
    row = {"source": np.arange(10, 10 + source), "target": np.arange(20, 20 + target)}
    row = {name: tokens[: most[name]].astype(np.int32) for name, tokens in row.items()}
    return objective.features(row, np.random.default_rng(0))


@functools.cache
def smoothed():
    """The setting of the objective with label smoothing."""
    setting = tiny.setting("seq2seq")
    objective = dataclasses.replace(setting.objective, config=dataclasses.replace(SHORT, smoothing=0.1))
    return dataclasses.replace(setting, objective=objective)


def test_it_keeps_the_laws_with_label_smoothing(tmp_path):
    lengths = zip(tiny.LENGTHS, reversed(tiny.LENGTHS), strict=True)
    rows = [{"source": laws.text(source), "target": laws.text(target, 1)} for source, target in lengths]
    config = tiny.config("t5", over=tiny.everywhere("t5", depth=1))
    laws.check(laws.case(smoothed().objective, {"model": config}, rows, rate=0.05), tmp_path)


def test_the_losses_are_those_of_numpy_and_evaluation_is_not_smoothed():
    setting = smoothed()
    objective, batch = setting.objective, setting.batch

    def compute(params):
        bound = setting.models.bind(params)
        logits = bound["model"](objective.inputs(batch), logits=True).logits
        part = Part(batch=batch, weights=objective.weights(batch))
        trained, evaluated = (objective.loss(bound, part.replace(key=key)) for key in (jax.random.key(0), None))
        return logits, trained.total, trained.metrics, evaluated.metrics

    logits, total, trained, evaluated = tiny.run_once(compute, setting.params)

    logits = np.float64(logits)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    labels, weights = np.asarray(batch["targets"]), np.asarray(batch["weights"])
    exact = -np.take_along_axis(logs, labels[..., None], -1)[..., 0]
    mean = lambda values: (values * weights).sum() / weights.sum()
    expected = mean(0.9 * exact - 0.1 * logs.mean(-1))
    assert total == pytest.approx(expected, rel=1e-5)
    assert means(trained) == pytest.approx({"loss": expected, "likelihood_loss": mean(exact)}, rel=1e-5)
    assert means(evaluated) == pytest.approx({"loss": mean(exact)}, rel=1e-5)


# The first input of the decoder is padding in T5 and EOS in BART.
@pytest.mark.parametrize("start", [None, tiny.VOCABULARY.eos])
def test_an_encoder_decoder_reads_the_target_behind_the_start_token(start):
    row = features(3, 5, vocabulary=dataclasses.replace(tiny.VOCABULARY, start=start))
    np.testing.assert_array_equal(row["source"], [10, 11, 12, 3, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(row["source_segments"], [1] * 4 + [0] * 6)
    np.testing.assert_array_equal(row["targets"], [20, 21, 22, 23, 24, 3, 0, 0])
    np.testing.assert_array_equal(row["tokens"], [start or 0, 20, 21, 22, 23, 24, 0, 0])
    np.testing.assert_array_equal(row["weights"], [1] * 6 + [0] * 2)


def test_a_decoder_reads_both_in_a_row_and_predicts_the_target():
    row = features(3, 2, kind="decoder", config=Seq2SeqConfig(target_length=4))
    np.testing.assert_array_equal(row["tokens"], [10, 11, 12, 3, 20, 21, 0, 0, 0, 0])
    np.testing.assert_array_equal(row["targets"], [11, 12, 3, 20, 21, 3, 0, 0, 0, 0])
    np.testing.assert_array_equal(row["weights"], [0, 0, 0, 1, 1, 1, 0, 0, 0, 0])
    assert row["prefix"] == 4


@pytest.mark.parametrize("kind", ["encoder_decoder", "decoder"])
def test_texts_that_are_too_long_are_cut_and_a_cut_target_has_no_eos(kind):
    vocabulary = dataclasses.replace(tiny.VOCABULARY, before=(40,), after=(41, 42))
    config = Seq2SeqConfig(target_length=4)
    cut, whole = (features(20, count, vocabulary=vocabulary, kind=kind, config=config) for count in (4, 3))
    predicted = lambda row: row["targets"][row["weights"] > 0].tolist()
    assert predicted(cut) == [20, 21, 22, 23] and predicted(whole) == [20, 21, 22, tiny.VOCABULARY.eos]
    source = whole["source"] if kind == "encoder_decoder" else whole["tokens"][: whole["prefix"]]
    assert len(source) == (10 if kind == "encoder_decoder" else 7)
    np.testing.assert_array_equal(source[:2], [40, 10])
    np.testing.assert_array_equal(source[-2:], [41, 42])
    assert whole["tokens"][-1] == 22, "the longest row is full"


@pytest.mark.parametrize(
    ("settings", "length", "kind", "error"),
    [
        ({"target": "source"}, 10, "decoder", r"seq2seq\.source and \.target are both 'source'; name two columns"),
        ({}, 1, "encoder_decoder", r"config\.data\.length 1 leaves no token .* special tokens; increase it"),
        ({"target_length": 10}, 10, "decoder", r"10 leaves no token .* a target of 10 tokens; increase it, or lower"),
    ],
)
def test_settings_that_leave_no_row_are_refused(settings, length, kind, error):
    with pytest.raises(InputError, match=error):
        Seq2Seq(Seq2SeqConfig(**settings), tiny.VOCABULARY, length, kind)


def test_two_files_of_parallel_lines_become_rows(repository, tmp_path):
    words = ["--config.data.length=16", "--config.data.batch=8", "--config.data.validation=0.1"]
    words += [f"--config.data.tokenizer.path={repository / 'tests' / 'golden' / 'tokenizer'}"]
    words += [f"--config.data.store={tmp_path}", "--config.data.workers=1"]
    for name, word in (("source", "number"), ("target", "Zahl")):
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress("".join(f"{word} {line}\n" for line in range(20)).encode()))
        words += [f"--config.data.columns.{name}.path={path}"]
    config, _ = flags.configure(flags.load_recipe("transformer:captions"), words)
    exp = experiment.prepare(experiment.parse(config))
    batch = next(exp.feed.batches(0))
    decoded = lambda name, row: exp.tokenizer.decode(batch[name][row])
    for row in range(8):
        assert decoded("source", row).split()[1] == decoded("targets", row).split()[1]


@pytest.mark.parity
def test_the_loss_and_its_gradient_are_those_of_torch():
    folder = case("transformer2017")
    with np.load(folder / "inputs.npz") as inputs, np.load(folder / "outputs.npz") as stored:
        inputs, stored = dict(inputs), dict(stored)
    labelled = inputs["labels"] >= 0
    batch = {
        "source": jnp.asarray(inputs["input_ids"]),
        "source_segments": jnp.asarray(inputs["attention_mask"]),
        "tokens": jnp.asarray(inputs["decoder_input_ids"]),
        "targets": jnp.asarray(np.where(labelled, inputs["labels"], 0)),
        "weights": jnp.asarray(labelled, jnp.float32),
    }
    vocabulary = Vocabulary(size=150, pad=0, bos=1, eos=2, start=1, ordinary=(3, 150))
    objective = Seq2Seq(Seq2SeqConfig(target_length=10, smoothing=0.1), vocabulary, 13)
    module, params = interop.load(folder)

    def loss(params):
        part = Part(batch=batch, weights=objective.weights(batch), key=jax.random.key(0))
        result = objective.loss({"model": Bound(module, params)}, part)
        return result.total, result.metrics

    with jax.default_matmul_precision("highest"):
        (total, metrics), gradients = tiny.run_once(jax.value_and_grad(loss, has_aux=True), params)
    # Tolerance: the reference differs from its own result in float64 by up to 1.2e-6.
    assert float(total) == pytest.approx(stored["loss"], abs=1.2e-5)
    assert means(metrics)["likelihood_loss"] == pytest.approx(stored["loss_no_smoothing"], abs=1.2e-5)
    np.testing.assert_allclose(gradients["token"]["embedding"], stored["grad/embed.weight"], atol=1e-5)


def test_targets_longer_than_the_learned_positions_of_the_decoder_are_refused():
    config = tiny.config("bart", over={"embed.max_length": 16})
    with pytest.raises(InputError, match="targets have up to 17 tokens, but config.model.embed.max_length is 16"):
        Seq2Seq(Seq2SeqConfig(target_length=17), tiny.VOCABULARY, 16).check({"model": config})


def test_the_source_of_a_chat_ends_with_its_text():
    config = Seq2SeqConfig(target_length=4, closed=False)
    row = features(20, 2, kind="decoder", config=config)
    assert row["prefix"] == 7
    np.testing.assert_array_equal(row["tokens"], [*range(10, 17), 20, 21, 0])
    np.testing.assert_array_equal(row["targets"][row["weights"] > 0], [20, 21, tiny.VOCABULARY.eos])
    # An encoder always reads the special tokens of its sources.
    assert features(3, 2, config=config)["source"][3] == tiny.VOCABULARY.eos
