"""Both of ELECTRA's models are imported into the roles of one run, trained further, and exported again."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from commands import GOLDEN, golden_flags, lm_jax
from interop.cases import case

from lm_jax import experiment
from lm_jax.core.sums import means
from lm_jax.core.trees import flatten, unflatten
from lm_jax.data import tokenizers
from lm_jax.data.config import DataConfig
from lm_jax.data.tokenizers import TokenizerConfig, interchange
from lm_jax.interop import choice, huggingface, safetensors
from lm_jax.interop.huggingface import open_checkpoint
from lm_jax.models.heads import gather
from lm_jax.models.interface import Inputs
from lm_jax.objectives.cross_entropy import sampled_token_loss
from lm_jax.objectives.replaced import detection
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.verbs import casting, forking, origins
from lm_jax.verbs.casting import Actor
from lm_jax.verbs.origins import ABOUT
from lm_jax.verbs.runs import restore_params

TABLES = ("token/embedding", "embed/position", "embed/types", "embed/norm/scale", "embed/norm/bias")
THEIRS = ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm")


def write(folder, preset, tokenizer, tables, **over):
    """Writes a random checkpoint with a tokenizer; `tables` replace its parameters. Returns all of them, by path."""
    small = {"stack.depth": 1, "embed.max_length": 32, "embed.vocab": tokenizer.vocab_size}
    config = tiny.config(preset, over={**small, **over})
    _, params = tiny.build(config, Inputs(tokens=jnp.zeros((1, 2), jnp.int32)))
    params = {**flatten(params), **tables}
    huggingface.save(folder, choice.tree_for(config), config, unflatten(params))
    for name, content in interchange.files(tokenizer, "encoder", types=True, longest=32).items():
        (folder / name).write_bytes(content)
    return params


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A generator and a discriminator with the same embeddings, as they were released."""
    folder, tokenizer = tmp_path_factory.mktemp("pair"), tokenizers.load(GOLDEN / "tokenizer")
    params = write(folder / "generator", "electra_generator", tokenizer, {})
    write(folder / "discriminator", "electra", tokenizer, {path: params[path] for path in TABLES}, detection=True)
    return folder


@pytest.fixture(scope="module")
def imported(pair, tmp_path_factory):
    """The run of both checkpoints."""
    workdir = tmp_path_factory.mktemp("run") / "imported"
    role = f"--role.generator={pair / 'generator'}"
    assert lm_jax("import", pair / "discriminator", role, f"--workdir={workdir}") == 0
    return workdir


def export(workdir, folder):
    """Exports both models of a run to folders named by their roles."""
    words = ("export", f"--workdir={workdir}")
    assert lm_jax(*words, f"--output={folder / 'discriminator'}") == 0
    assert lm_jax(*words, f"--output={folder / 'generator'}", "--role=generator") == 0
    return folder


def arrays(folder):
    return {name: entry.read() for name, entry in safetensors.entries(folder).items()}


def shared(folder):
    """The embedding tables of a checkpoint, which ELECTRA's models share."""
    return {name: array for name, array in arrays(folder).items() if any(f".{table}." in name for table in THEIRS[:3])}


def test_the_tables_of_both_models_are_stored_once_with_their_owner(imported):
    config = experiment.load(imported).config
    assert (config.objective.name, config.objective.replaced.share) == ("replaced", "all")
    assert config.model.detection and config.models["generator"].readout.transform
    paths = {path.removeprefix("params/") for path in Checkpointer(imported / "checkpoints").describe(0)}
    assert {f"discriminator/{path}" for path in TABLES} <= paths
    assert not {f"generator/{path}" for path in TABLES} & paths


def test_both_models_are_exported_bit_for_bit(imported, pair, tmp_path, capsys):
    exported = export(imported, tmp_path)
    report = capsys.readouterr().out
    assert "log-odds of replaced tokens differ by at most 0.0" in report and "overlap by 100.0%" in report
    for role in ("discriminator", "generator"):
        before, after = arrays(pair / role), arrays(exported / role)
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[name], after[name]) for name in before)
        files = {file.name for file in (pair / role).iterdir()}
        assert files == {file.name for file in (exported / role).iterdir()}
        for name in files - {"model.safetensors"}:
            assert (pair / role / name).read_text().split() == (exported / role / name).read_text().split(), name


def test_a_fork_starts_from_the_parameters_of_both_models(imported):
    exp = experiment.load(imported)
    exp = dataclasses.replace(exp, config=dataclasses.replace(exp.config, data=DataConfig(length=32, batch=8)))
    saved = restore_params(Checkpointer(imported / "checkpoints"), exp.params_like(*exp.models.roles))
    jax.tree.map(np.testing.assert_array_equal, forking.parameters(exp, imported), saved)


@pytest.mark.slow
def test_both_models_are_trained_further_and_still_share_their_tables(imported, pair, tmp_path):
    text = [word for word in golden_flags(tmp_path / "store") if "tokenizer" not in word]
    sizes = ("--config.train.steps=2", "--config.data.batch=8", "--config.log.writers=jsonl")
    words = (f"--config={imported / 'recipe.py'}", f"--fork={imported}", f"--workdir={tmp_path / 'tuned'}")
    assert lm_jax("train", *words, *text, *sizes) == 0
    exported = export(tmp_path / "tuned", tmp_path)
    tables, before = shared(exported / "generator"), shared(pair / "generator")
    for name, array in shared(exported / "discriminator").items():
        assert np.array_equal(array, tables[name]) and not np.array_equal(array, before[name])
    for role in ("discriminator", "generator"):
        first, last = arrays(pair / role), arrays(exported / role)
        assert all(not np.array_equal(first[name], last[name]) for name in first if "query.weight" in name)
    again = tmp_path / "again"
    role = f"--role.generator={exported / 'generator'}"
    assert lm_jax("import", exported / "discriminator", role, f"--workdir={again}") == 0
    assert experiment.load(again).config.objective.replaced.share == "all"


def test_the_generator_fills_masks_and_the_discriminator_is_refused(imported, capsys):
    words = ("generate", f"--workdir={imported}", "--prompt=a [MASK] b")
    assert lm_jax(*words) == 2
    error = capsys.readouterr().err
    assert "--role=generator" in error and error.count("\n") == 1
    assert lm_jax(*words, "--role=generator", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["answers"][0]["masks"]) == 1


@pytest.mark.parametrize(
    ("changed", "share", "others"), [("embed/position", "token", ""), ("token/embedding", "none", ", embed/position")]
)
def test_tables_that_differ_stay_separate_and_are_reported(pair, tmp_path, changed, share, others):
    generator, discriminator = (open_checkpoint(pair / role) for role in ("generator", "discriminator"))
    params = {path: generator.below(path)[path] for path in TABLES}
    different = {path: params[path] + 1 for path in (changed, "embed/position")}
    write(tmp_path, "electra_generator", tokenizers.load(GOLDEN / "tokenizer"), {**params, **different})
    product, other = (
        Actor(source=tmp_path, checkpoint=checkpoint, tokenizer_path=None)
        for checkpoint in (discriminator, open_checkpoint(tmp_path))
    )
    config, (note,) = casting.objective(product, {"generator": other})
    assert config.replaced.share == share
    assert f"share is {share!r}, because the checkpoints differ in {changed.removesuffix('/embedding')}{others}" in note


def copied(pair, folder, **over):
    """Copies the generator, with changed fields of config.json."""
    shutil.copytree(pair / "generator", folder)
    tree = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**tree, **over}))
    return folder


def test_checkpoints_that_do_not_fit_the_roles_are_refused_in_one_line(pair, tmp_path, capsys):
    discriminator, generator = pair / "discriminator", pair / "generator"
    other = copied(pair, tmp_path / "other")
    tokenizer = tokenizers.train(TokenizerConfig(kind="characters", vocab=60), ["abc def"])
    for name, content in interchange.files(tokenizer, "encoder").items():
        (other / name).write_bytes(content)
    small, vocab = tmp_path / "small", tokenizer.vocab_size
    write(small, "electra_generator", tokenizer, {}, **{"embed.vocab": vocab})
    cases = {
        (discriminator, f"--role.generator={other}"): "another tokenizer",
        (discriminator, f"--role.generator={small}", "--tokenizer=ids"): f"has {vocab} token embeddings",
        (discriminator, f"--role.generator={discriminator}"): "predicts no tokens",
        (discriminator, f"--role.teacher={generator}"): "expected --role.generator=DIR",
        (generator, f"--role.generator={discriminator}"): "detects no replaced tokens",
        (discriminator, "--role.generator"): "write --role.generator=DIR",
        (discriminator, f"--role={generator}"): "import does not read --role",
    }
    for words, message in cases.items():
        assert lm_jax("import", *words, f"--workdir={tmp_path / 'run'}") == 2, words
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert not (tmp_path / "run").exists()


def test_a_run_imported_before_models_had_the_head_is_exported_with_it(pair, tmp_path):
    checkpoint = open_checkpoint(pair / "discriminator")
    params = checkpoint.params()
    head = {f"extra/{path}": np.asarray(array) for path, array in flatten(params.pop("detect")).items()}
    tensor = lambda name, array: safetensors.Tensor(name, array.shape, array.dtype, lambda: array)
    safetensors.write(tmp_path, [tensor(name, array) for name, array in head.items()])
    (tmp_path / ABOUT).write_text(json.dumps({"config": checkpoint.tree, "tensors": sorted(checkpoint.entries)}))
    config = dataclasses.replace(checkpoint.config, detection=False)
    origin = origins.read(tmp_path)
    config, params = origins.updated(origin, config, params)
    huggingface.save(tmp_path / "exported", origins.tree_of(origin, config), config, params, origin.extra)
    before, after = arrays(pair / "discriminator"), arrays(tmp_path / "exported")
    assert before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)


def reference(family):
    """The inputs, attention mask, outputs and tolerances of a reference case."""
    folder = case(family)
    with np.load(folder / "inputs.npz") as inputs, np.load(folder / "outputs.npz") as outputs:
        stored, outputs = dict(inputs), {name: outputs[name] for name in ("logits", "loss")}
    mask = stored["attention_mask"]
    inputs = Inputs(
        tokens=jnp.asarray(stored["input_ids"]), segments=jnp.asarray(mask), types=jnp.asarray(stored["token_type_ids"])
    )
    tolerances = json.loads((folder / "meta.json").read_text())["tolerance"]
    return inputs, stored["labels"], mask, outputs, tolerances


@pytest.mark.parity
def test_both_roles_compute_the_logits_and_losses_of_the_reference(tmp_path):
    role, workdir = f"--role.generator={case('electra_gen')}", tmp_path / "run"
    assert lm_jax("import", case("electra_disc"), role, f"--workdir={workdir}") == 0
    exp = experiment.load(workdir)
    assert exp.config.objective.replaced.share == "none"
    params = restore_params(Checkpointer(workdir / "checkpoints"), exp.params_like(*exp.models.roles))
    models = exp.models.bind(jax.tree.map(jnp.asarray, jax.device_get(params)))
    with jax.default_matmul_precision("highest"):
        inputs, labels, mask, outputs, tolerances = reference("electra_disc")
        log_odds = models["discriminator"].head("detect", models["discriminator"](inputs).hidden)
        assert np.abs(np.asarray(log_odds) - outputs["logits"])[mask > 0].max() <= tolerances["forward_abs"]
        loss = means(detection(log_odds, jnp.asarray(labels > 0), jnp.float32(mask)))["discriminator_loss"]
        assert abs(loss - outputs["loss"]) <= tolerances["loss_abs"]

        inputs, labels, mask, outputs, tolerances = reference("electra_gen")
        hidden = models["generator"](inputs).hidden
        logits = models["generator"].readout(hidden)
        assert np.abs(np.asarray(logits) - outputs["logits"])[mask > 0].max() <= tolerances["forward_abs"]
        at = np.argsort(labels < 0, axis=1, kind="stable")[:, : (labels >= 0).sum(1).max()]
        chosen = np.take_along_axis(labels, at, 1)
        weights, uniforms = jnp.float32(chosen >= 0), jnp.full((*at.shape, 2), 0.5)
        answers = jnp.asarray(chosen.clip(0))
        total, _, _ = sampled_token_loss(
            models["generator"], gather(hidden, jnp.asarray(at)), answers, weights, uniforms
        )
        assert abs(total.total / total.weight - outputs["loss"]) <= tolerances["loss_abs"]
