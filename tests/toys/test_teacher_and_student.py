"""A toy of distillation: a student learns what a teacher that is not trained thinks of the next token."""

import dataclasses
import json

import jax
import laws
import numpy as np
import tiny
from ml_collections import ConfigDict

from lm_jax import experiment, flags
from lm_jax.core.config import Tree
from lm_jax.data import tokenizers
from lm_jax.experiment import Experiment
from lm_jax.models.presets.gpt import gpt2
from lm_jax.objectives import OBJECTIVES, ObjectiveConfig
from lm_jax.objectives.base import Loss, per_weight, weighted
from lm_jax.objectives.causal import Causal, CausalConfig
from lm_jax.objectives.roles import Role
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.verbs import forking


@dataclasses.dataclass(frozen=True)
class Distilled(Causal):
    roles = {
        "student": Role(kinds=("decoder",), product=True),
        "teacher": Role(kinds=("decoder",), trainable=False),
    }

    @property
    def work(self):
        (one,) = super().work
        return tuple(dataclasses.replace(one, role=role) for role in self.roles)

    def loss(self, models, part):
        batch = part.batch
        inputs = self.inputs(batch)
        student = models["student"](inputs, dropout=part.key, logits=True).logits
        teacher = models["teacher"](inputs, logits=True).logits
        logs = jax.nn.log_softmax(teacher)
        apart = (jax.nn.softmax(teacher) * (logs - jax.nn.log_softmax(student))).sum(-1)
        found = weighted(apart, batch["weights"])
        return Loss(total=per_weight(found.total, part.weights["tokens"]), metrics={"loss": found})


def test_it_keeps_the_laws_and_the_teacher_its_bits(tmp_path):
    rows = [{"tokens": laws.text(count, seed)} for seed, count in enumerate(tiny.LENGTHS)]
    small, large = (tiny.config("gpt2", over={"stack.depth": depth, "embed.max_length": 8}) for depth in (1, 2))
    case = laws.case(Distilled(CausalConfig(), tiny.VOCABULARY, 8), {"student": small, "teacher": large}, rows)
    states = laws.check(case, tmp_path)
    first, last = states[0], states[-1]
    assert set(first.params) == {"student"} and set(first.frozen) == {"teacher"}
    jax.tree.map(np.testing.assert_array_equal, first.frozen, last.frozen)
    kept = sum(leaf.size for leaf in jax.tree.leaves(first.opt_state))
    assert kept == sum(leaf.size for leaf in jax.tree.leaves(first.params)), "optimizer state of the student alone"


def written(folder, repository):
    """A run of both models, and its parameters by role."""
    recipe = ConfigDict(
        {"model": gpt2("tiny"), "models": {"teacher": gpt2("tiny")}, "objective": {"name": "distilled"}}
    )
    config, _ = flags.configure(recipe, ["--config.models.teacher.stack.depth=1", "--config.data.length=16"])
    exp = Experiment(experiment.parse(config), tokenizers.load(repository / "tests" / "golden" / "tokenizer"))
    drawn = tiny.drawn(exp.models.shapes)
    params, frozen = exp.models.split(jax.tree.map(jax.numpy.asarray, drawn))
    with Checkpointer(folder / "checkpoints") as checkpointer:
        checkpointer.save(0, {"params": params, "frozen": frozen}, {})
    (folder / experiment.SAVED).write_text(json.dumps(experiment.as_json(exp.config)))
    return exp, drawn


def test_a_fork_takes_each_role_and_another_objective_the_product(monkeypatch, repository, tmp_path):
    monkeypatch.setitem(OBJECTIVES, "distilled", Distilled)
    exp, drawn = written(tmp_path, repository)
    jax.tree.map(np.testing.assert_array_equal, forking.parameters(exp, tmp_path), drawn)
    plain = dataclasses.replace(exp.config, objective=ObjectiveConfig(name="causal"), models=Tree())
    alone = forking.parameters(Experiment(plain, exp.tokenizer), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, alone, {"model": drawn["student"]})
