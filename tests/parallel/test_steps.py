"""Five steps of each kind of model on eight devices have the losses and parameters of one device, however divided."""

import functools

import jax
import laws
import numpy as np
import pytest

from lm_jax import experiment, flags
from lm_jax.data import pipeline, rows
from lm_jax.experiment import planning
from lm_jax.objectives import cross_entropy
from lm_jax.parallel import products

STEPS, ROWS = 5, 16
BERT = ("objective.masked.next_sentence=false", "model.pair_classes=0")
EXPERTS = ("model.stack.block.feedforward.experts.count=4", "model.stack.block.feedforward.experts.top=2")
KINDS = {
    "bert:tiny": BERT,
    "gpt:tiny": (),
    "t5:tiny": ("data.tokenizer.sentinels=20",),
    "llama:tiny": EXPERTS,
}
TABLES = {
    "data": ("mesh.data=8",),
    "fsdp": ("mesh.data=1", "mesh.fsdp=8"),
    "mixed": ("mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2"),
    "stream": ("mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2", "rules.stream=tensor"),
    "tensor": ("mesh.data=4", "mesh.tensor=2", "rules.stream=tensor", "rules.vocab="),
    "both": ("mesh.data=2", "mesh.fsdp=4", "rules.embed=data,fsdp"),
}
# The others take minutes together.
QUICK = {("gpt:tiny", "both")}


class RandomTokens:
    """An endless corpus of random ordinary tokens."""

    def __init__(self, length, ordinary):
        self.length, self.ordinary = length, ordinary
        self.filling = functools.partial(rows.permuted, self)

    def __len__(self):
        return 1 << 20

    def row(self, index, epoch, rng):
        return {"tokens": rng.integers(*self.ordinary, self.length, dtype="int32")}


def steps(kind, settings, devices):
    """Losses of some steps, and the parameters after them on the host."""
    shared = (
        "data.batch=16",
        "data.length=32",
        "optimizer.name=adamw",
        "optimizer.schedule.name=constant",
        *KINDS[kind],
    )
    words = [f"--config.{word}" for word in (*shared, *settings)]
    config = experiment.parse(flags.configure(flags.load_recipe(kind), words)[0])
    exp = planning.without_text(config, devices)
    corpus = RandomTokens(exp.objective.reads.length, exp.vocabulary.ordinary)
    state, losses = exp.fresh_state(), []
    step = exp.train_step().lower(exp.state_like, exp.batch_like).compile(laws.QUICK)
    for number in range(STEPS):
        batch = pipeline.batch_at(corpus, exp.objective.features, number, seed=0, batch=ROWS)
        state, sums = step(state, exp.put(batch))
        losses.append(float(sums[exp.objective.terms[0]].mean()))
    return losses, jax.device_get(state.params)


@functools.cache
def alone(kind):
    return steps(kind, ("mesh.data=1",), jax.devices()[:1])


@pytest.mark.parametrize(
    ("kind", "table"),
    [
        pytest.param(kind, table, marks=() if (kind, table) in QUICK else pytest.mark.slow)
        for kind in KINDS
        for table in TABLES
    ],
)
def test_a_divided_step_is_that_of_one_device(kind, table, monkeypatch):
    expected, params = alone(kind)
    monkeypatch.setattr(products, "PLATFORMS", ("cpu",))
    monkeypatch.setattr(products, "LEAST_DEVICES", 2)
    # Gradients of tables are reduced in each of several parts of the loss.
    monkeypatch.setattr(products, "LARGE", 1024)
    monkeypatch.setattr(cross_entropy, "LEAST_TOKENS", 16)
    losses, divided = steps(kind, TABLES[table], jax.devices())
    assert losses == pytest.approx(expected, rel=1e-5)
    for ours, theirs in zip(jax.tree.leaves(divided), jax.tree.leaves(params), strict=True):
        # AdamW divides by the root of squares: where gradients are small, sums in another order change the sign.
        assert np.abs(ours - theirs).mean() < 1e-5
