"""A batch that is cut to its bucket has the loss of the whole batch, and a run counts the tokens of its batches."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from lm_jax import experiment
from lm_jax.core.config import InputError, Tree
from lm_jax.data import tokenizers
from lm_jax.data.pipeline import KEYS
from lm_jax.experiment import Experiment
from lm_jax.flags import configure, load_recipe
from lm_jax.models.presets import PRESETS
from lm_jax.objectives.base import Part, Work
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.train.gradients import accumulate, plain
from tests.commands import lm_jax

SHORT = [4, 1, 7, 3, 9, 2, 5, 6]


@pytest.fixture
def build(repository):
    """An experiment of rows of at most 24 tokens, on one device, with the `tiny` size of a preset."""

    def build(preset, **settings):
        recipe = ConfigDict({"model": PRESETS[preset].build("tiny"), **settings})
        recipe.data = {"length": 24, "batch": 8, "buckets": (12,), **settings.get("data", {})}
        config = experiment.parse(experiment.complete(recipe))
        tokenizer = tokenizers.load(repository / "tests" / "golden" / "tokenizer")
        labels = Tree(label=("bad", "good"))
        return Experiment(config, tokenizer, devices=jax.devices()[:1], saved_labels=labels)

    return build


def rows(exp):
    """Rows of up to 12 tokens, with their special tokens."""
    rng = np.random.default_rng(0)
    draw = lambda size: rng.integers(10, 400, size)
    first, second = exp.objective.reads.columns if exp.config.objective.name == "seq2seq" else ("text", "pair")
    for number, size in enumerate(SHORT):
        yield {first: draw(size), second: draw(max(1, 8 - size)), "label": np.int32(number % 2)}


CASES = [
    pytest.param("bert", {"name": "classify"}, marks=pytest.mark.slow),
    ("t5", {"name": "seq2seq", "seq2seq": {"smoothing": 0.0}}),
]


@pytest.mark.parametrize(("preset", "objective"), CASES)
def test_a_cut_batch_has_the_loss_and_the_gradients_of_the_whole_one(build, preset, objective):
    exp = build(preset, objective=objective)
    features = [exp.objective.features(row, np.random.default_rng(0)) for row in rows(exp)]
    keys = {KEYS: jnp.zeros((8, 2), jnp.uint32)}
    whole, cut = (
        {**tiny.stacked([exp.buckets.cut(row, size) for row in features]), **keys} for size in exp.buckets.sizes[::-1]
    )
    assert exp.buckets.of_batch(cut) == 12 and exp.buckets.of_batch(whole) == 24
    params, frozen = exp.models.split({"model": tiny.random_params(exp.models.shapes["model"])})

    def step(batch, gradients):
        weights = exp.objective.weights(batch)

        def loss(params, part, key, carry):
            return exp.objective.loss(exp.models.bind(params, frozen), Part(batch=part, weights=weights))

        grads, sums, _ = gradients(loss, params, batch, jax.random.key(0), exp.objective.carry)
        return grads, sums["loss"].total

    (grads, loss), (cut_grads, cut_loss) = (
        tiny.run_once(lambda batch, gradients=gradients: step(batch, gradients), batch)
        for batch, gradients in ((whole, plain), (cut, accumulate(2)))
    )
    assert float(cut_loss) == pytest.approx(float(loss), rel=1e-6)
    # Products of other shapes add in another order: in T5, accumulation alone changes a gradient by 1e-5.
    assert tiny.largest_difference(grads, cut_grads) < 2e-5


def test_work_counts_the_tokens_of_a_cut_batch(build):
    exp = build("t5", objective={"name": "seq2seq", "seq2seq": {"target_length": 16}})
    assert exp.buckets.sizes == (12, 24)
    assert [exp.row_tokens(size) for size in (12, 24, None)] == [12, 24, 24]
    (work,) = exp.objective.work
    assert (work.cut(12).length, work.cut(12).source, work.cut(20).length) == (12, 12, 16)
    assert 0.4 * exp.flops() < exp.flops(12) < 0.7 * exp.flops() and exp.flops(24) == exp.flops()
    assert {name: like.shape for name, like in exp.batch_of(12).items() if name != KEYS} == {
        name: (8, 12) for name in exp.objective.spec
    }


def test_every_choice_of_a_cut_row_counts():
    work = Work(role="model", length=4 * 24, scored=0, heads=Tree(task=4), sequences=4)
    assert work.cut(12) == dataclasses.replace(work, length=48) and work.cut(None) == work


def test_targets_longer_than_a_row_have_a_bucket(build):
    exp = build("t5", objective={"name": "seq2seq", "seq2seq": {"target_length": 40}})
    assert exp.buckets.sizes == (12, 40) and exp.batch_of(40)["source"].shape == (8, 24)


def test_a_bucket_that_does_not_divide_over_the_devices_is_refused(build):
    settings = {"mesh": {"data": 1, "fsdp": 1, "tensor": 8}}
    settings["rules"] = {"length": ("tensor",), "heads": (), "groups": (), "mlp": (), "vocab": ()}
    exp = dataclasses.replace(build("bert", objective={"name": "classify"}, **settings), devices=None)
    with pytest.raises(InputError, match="axis length of size 12 is not divisible by the 8 devices"):
        exp.batch_of(12)


@pytest.mark.slow
def test_a_run_compiles_each_length_once_and_counts_tokens_across_a_restart(repository, tmp_path, capsys):
    rng = np.random.default_rng(0)
    words = ["the", "sea", "runs", "and", "a", "star"]
    draw = lambda: " ".join(rng.choice(words, int(rng.geometric(0.2))).tolist())
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": draw(), "label": number % 2}) for number in range(100)))
    settings = ["--config.objective.name=classify", f"--config.data.path={path}"]
    settings += ["--config.data.columns.text.kind=text", "--config.data.columns.label.kind=label"]
    settings += [f"--config.data.store={tmp_path / 'store'}", "--config.data.workers=1", "--config.data.length=24"]
    settings += [f"--config.data.tokenizer.path={repository / 'tests' / 'golden' / 'tokenizer'}"]
    settings += ["--config.data.batch=8", "--config.data.buckets=12", "--config.data.rows.window=4"]
    settings += ["--config.model.stack.depth=1", "--config.log.every=1", "--config.evaluate.batches=1"]
    run = f"--workdir={tmp_path / 'run'}"
    assert lm_jax("train", "--config=bert:tiny", *settings, "--config.train.steps=3", run) == 0
    said = capsys.readouterr().out
    assert all(said.count(f"for rows of {size} tokens") == 1 for size in (12, 24))
    assert lm_jax("train", "--config=bert:tiny", *settings, "--config.train.steps=5", run) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    tokens = [line["train/tokens"] for line in lines if "train/tokens" in line]
    feed = experiment.prepare(experiment.parse(configure(load_recipe("bert:tiny"), settings)[0])).feed
    assert np.diff([0, *tokens]).tolist() == [8 * feed.bucket(step) for step in range(5)]
    assert Checkpointer(tmp_path / "run" / "checkpoints").extra(5)["read"]["tokens"] == tokens[-1]
