"""ELECTRA and MC-BERT: rows, replacements, losses, gradients and shared parameters."""

import functools
import json

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from lm_jax import experiment, flags, objectives
from lm_jax.core.config import InputError
from lm_jax.core.sums import means
from lm_jax.core.trees import merge
from lm_jax.data import tokenizers
from lm_jax.models.interface import Inputs
from lm_jax.models.presets.bert import electra, electra_generator
from lm_jax.objectives import ObjectiveConfig, sampling
from lm_jax.objectives.base import Part, row_keys
from lm_jax.objectives.replaced import Replaced, ReplacedConfig
from lm_jax.objectives.substituted import CANDIDATES, Substituted, SubstitutedConfig
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.verbs import forking

VOCABULARY, NAMES = tiny.VOCABULARY, ("replaced", "substituted")
setting = functools.cache(tiny.setting)


@pytest.mark.usefixtures("untyped")
def test_fifteen_percent_of_the_ordinary_tokens_are_masked_in_ten_thousand_rows():
    objective = Replaced(ReplacedConfig(mask=0.85), VOCABULARY, 32)
    rng = np.random.default_rng(0)
    text = rng.integers(*VOCABULARY.ordinary, (10_000, 30)).astype(np.int32)
    rows = [objective.features({"tokens": tokens}, rng) for tokens in text]
    tokens, positions, labels, weights = (
        np.stack([row[name] for row in rows]) for name in ("tokens", "positions", "labels", "weights")
    )
    assert set(rows[0]) == set(objective.spec)
    used = weights > 0
    assert used.sum() == 10_000 * round(0.15 * 30)
    assert ((positions >= 1) & (positions <= 30))[used].all()
    before = np.pad(text, ((0, 0), (1, 1)), constant_values=0)
    read = np.take_along_axis(tokens, positions, 1)
    np.testing.assert_array_equal(labels[used], np.take_along_axis(before, positions, 1)[used])
    # Every position is chosen equally often, and 85 % are masked; tolerance: 5 standard errors of 40,000 draws.
    assert np.bincount(positions[used], minlength=31)[1:] == pytest.approx(np.full(30, 40_000 / 30), abs=5 * 37)
    assert (read == VOCABULARY.mask)[used].mean() == pytest.approx(0.85, abs=0.009)
    assert ((read == VOCABULARY.mask) | (read == labels))[used].all()


def generated(case):
    """The batch of a case with its replacements and metrics of the loss; MC-BERT's candidates too."""
    objective, batch = case.objective, case.batch

    def run(params):
        models = case.models.bind(params)
        result = objective.generate(models["generator"], batch, None)
        loss = objective.loss(models, Part(batch=batch, weights=objective.weights(batch)))
        inputs = Inputs(tokens=result.tokens, segments=batch["segments"])
        product = models[case.models.product]
        output = product(inputs, logits=True)
        outputs = {
            "generator": models["generator"].readout(result.output.hidden),
            "uniforms": sampling.uniforms(row_keys(batch), batch["positions"].shape[1]),
            "logits": output.logits,
        }
        if isinstance(objective, Substituted):
            keys = jax.vmap(lambda key: jax.random.fold_in(key, CANDIDATES))(row_keys(batch))
            uniforms = sampling.uniforms(keys, objective.length, objective.config.candidates - 1)
            outputs["candidates"] = objective.candidates(models["generator"], result, uniforms)
        else:
            outputs["log_odds"] = product.head("detect", output.hidden)
        arrays = {"tokens": result.tokens, "originals": result.originals, "replaced": result.replaced}
        return loss.total, loss.metrics, {**outputs, **arrays}

    params = case.params
    if not isinstance(objective, Substituted):
        # With this bias, the discriminator takes some tokens for replaced ones and some for originals.
        shift = {"detect": {"out": {"bias": params["discriminator"]["detect"]["out"]["bias"] + 1.3}}}
        params = {**params, "discriminator": merge(params["discriminator"], shift)}
    total, metrics, arrays = tiny.run_once(run, params)
    return float(total), means(metrics), {name: np.asarray(value, np.float64) for name, value in arrays.items()}


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@functools.cache
def computed(name):
    return generated(setting(name))


@pytest.mark.parametrize("name", NAMES)
def test_replacements_and_the_generators_loss_equal_their_definition(name):
    _, metrics, arrays = computed(name)
    batch = {key: np.asarray(value) for key, value in setting(name).batch.items()}
    rows, (at, labels, used) = np.arange(8)[:, None], (batch[key] for key in ("positions", "labels", "weights"))
    logs = log_softmax(arrays["generator"])[rows, at]
    expected = -(np.take_along_axis(logs, labels[..., None], 2)[..., 0] * used).sum() / used.sum()
    assert metrics["generator_loss"] == pytest.approx(expected, rel=1e-5)
    # The library's own inversion, in float64 and with one level for each random number.
    masses, size = np.exp(logs), 8
    blocks = masses.reshape(*masses.shape[:2], -1, size)
    choose = lambda parts, uniform: (parts.cumsum(-1) <= uniform[..., None] * parts.sum(-1, keepdims=True)).sum(-1)
    block = choose(blocks.sum(-1), arrays["uniforms"][..., 0])
    inside = choose(np.take_along_axis(blocks, block[..., None, None], 2)[:, :, 0], arrays["uniforms"][..., 1])
    originals, tokens = batch["tokens"].copy(), batch["tokens"].copy()
    for row, entry in np.argwhere(used > 0):
        originals[row, at[row, entry]] = labels[row, entry]
        tokens[row, at[row, entry]] = (block * size + inside)[row, entry]
    np.testing.assert_array_equal(arrays["originals"], originals)
    np.testing.assert_array_equal(arrays["tokens"], tokens)
    np.testing.assert_array_equal(arrays["replaced"], tokens != originals)


def test_the_discriminators_loss_equals_its_definition():
    total, metrics, arrays = computed("replaced")
    real = np.asarray(setting("replaced").batch["segments"]) > 0
    odds, replaced = arrays["log_odds"][real], arrays["replaced"][real] > 0
    loss = np.where(replaced, np.logaddexp(0, -odds), np.logaddexp(0, odds)).mean()
    assert metrics["discriminator_loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["discriminator_accuracy"] == pytest.approx(((odds > 0) == replaced).mean(), rel=1e-5)
    assert metrics["discriminator_precision"] == pytest.approx(replaced[odds > 0].mean(), rel=1e-5)
    assert metrics["discriminator_recall"] == pytest.approx((odds > 0)[replaced].mean(), rel=1e-5)
    assert metrics["replaced_share"] == pytest.approx(replaced.mean(), rel=1e-5)
    assert total == pytest.approx(metrics["generator_loss"] + 2 * loss, rel=1e-5)
    assert total == pytest.approx(sum(metrics[term] for term in Replaced.terms), rel=1e-5)


def test_the_loss_over_candidates_equals_its_definition():
    total, metrics, arrays = computed("substituted")
    real = np.asarray(setting("substituted").batch["segments"]) > 0
    candidates, replaced = arrays["candidates"].astype(int)[real], arrays["replaced"][real] > 0
    originals = arrays["originals"][real]
    assert (candidates[:, 0] == VOCABULARY.mask).all() and candidates.shape[1] == 10
    assert (np.diff(np.sort(candidates, 1), axis=1) > 0).all(), "candidates differ"
    np.testing.assert_array_equal((candidates == originals[:, None]).any(1), replaced)
    np.testing.assert_array_equal(candidates[replaced, 1], originals[replaced])
    logs = log_softmax(np.take_along_axis(arrays["logits"][real], candidates, 1))
    loss = -np.where(replaced, logs[:, 1], logs[:, 0]).mean()
    assert metrics["choice_loss"] == pytest.approx(loss, rel=1e-5)
    assert total == pytest.approx(metrics["generator_loss"] + 2 * loss, rel=1e-5)
    assert total == pytest.approx(sum(metrics[term] for term in Substituted.terms), rel=1e-5)


def test_a_sample_that_equals_the_original_is_no_replacement():
    case = setting("replaced")
    params = {**case.params, "generator": {**case.params["generator"]}}
    bias = case.params["generator"]["head"]["bias"].at[10].set(1e4)
    params["generator"]["head"] = {**params["generator"]["head"], "bias": bias}
    even = np.arange(8)[:, None] % 2 == 0
    batch = {**case.batch, "labels": jnp.where(even, 10, 11) + 0 * case.batch["labels"]}

    def run(params):
        result = case.objective.generate(case.models.bind(params)["generator"], batch, None)
        return result.replaced, result.tokens

    replaced, tokens = (np.asarray(array) for array in tiny.run_once(run, params))
    masked = np.asarray(batch["tokens"]) == VOCABULARY.mask
    assert (tokens[masked] == 10).all()
    np.testing.assert_array_equal(replaced, masked & ~even)


@pytest.mark.parametrize("name", NAMES)
def test_the_products_loss_trains_only_the_shared_parameters_of_the_generator(name):
    case = setting(name)

    def loss(params):
        weights = {**case.objective.weights(case.batch), "masked": jnp.float32(1e30)}
        return case.objective.loss(case.models.bind(params), Part(batch=case.batch, weights=weights)).total

    slopes = tiny.run_once(jax.grad(loss), case.params)
    assert all(np.abs(leaf).max() < 1e-20 for leaf in jax.tree.leaves(slopes["generator"]))
    assert np.abs(slopes[case.models.product]["token"]["embedding"]).max() > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_they_keep_the_laws_with_shared_tables_and_a_key_per_row(name, tmp_path):
    case = setting(name)
    rows = [{"tokens": laws.text(count, seed)} for seed, count in enumerate((10, 5, 9, 10, 2, 10, 7, 10))]
    case = laws.case(case.objective, {}, rows, models=case.models.models, rate=0.05)
    states = laws.check(case, tmp_path, fall=0.9)
    before, after = laws.all_params(states[0]), laws.all_params(states[-1])
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    product = case.models.product
    assert {f"{product}/token/embedding", "generator/stack/layers/attention/query/kernel"} <= changed
    assert "generator/token/embedding" not in before


def test_the_settings_decide_what_the_generator_shares():
    shares = lambda **settings: dict(
        objectives.roles(ObjectiveConfig(name="replaced", replaced=ReplacedConfig(**settings)))["generator"].shares
    )
    assert set(shares()) == {"token", "embed/position", "embed/types", "embed/norm"}
    assert (set(shares(share="token")), shares(share="none")) == ({"token"}, {})
    with pytest.raises(InputError, match=r"config\.objective\.substituted\.share"):
        SubstitutedConfig(share="some")
    with pytest.raises(InputError, match=r"config\.objective\.replaced\.rate is 0"):
        ReplacedConfig(rate=0)


def build(repository, *words, **objective):
    """The experiment of a recipe whose generator has another preset."""
    model = electra("tiny")
    model.detection = True
    models = {"model": model, "models": {"generator": electra_generator("tiny")}}
    recipe = ConfigDict({**models, "objective": {"name": "replaced", "replaced": objective}})
    words = ["--config.models.generator.stack.depth=1", "--config.data.length=64", *words]
    config, _ = flags.configure(recipe, words)
    tokenizer = tokenizers.load(repository / "tests" / "golden" / "tokenizer")
    return experiment.Experiment(experiment.parse(config), tokenizer)


def test_a_recipe_gives_each_role_its_own_preset(repository):
    exp = build(repository)
    depths = {role: model.module.config.stack.depth for role, model in exp.models.models.items()}
    assert depths == {"generator": 1, "discriminator": electra("tiny").stack.depth}
    assert exp.product is exp.models.models["discriminator"]
    assert exp.flops() > 0
    assert all(leaf.sharding is not None for leaf in jax.tree.leaves(exp.state_like))
    assert "token" not in exp.models.shapes["generator"]
    assert "token" in build(repository, share="none").models.shapes["generator"]


def test_a_fork_without_sharing_starts_both_tables_from_the_shared_one(repository, tmp_path):
    exp = build(repository)
    values = tiny.random_params(exp.models.shapes)
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        checkpointer.save(0, {"params": values}, {})
    (tmp_path / experiment.SAVED).write_text(json.dumps(experiment.as_json(exp.config)))
    forked = forking.parameters(build(repository, share="none"), tmp_path)
    for role in ("generator", "discriminator"):
        np.testing.assert_array_equal(forked[role]["token"]["embedding"], values["discriminator"]["token"]["embedding"])
    kernel = lambda tree: tree["generator"]["embed"]["project"]["kernel"]
    np.testing.assert_array_equal(kernel(forked), kernel(values))


def test_tables_of_different_widths_cannot_be_shared(repository):
    with pytest.raises(InputError, match=r"config\.models\.generator shares token with config\.model"):
        _ = build(repository, "--config.models.generator.embed.factor=16").models
