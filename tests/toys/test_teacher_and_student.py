"""A toy of distillation: a student learns the next-token probabilities of a frozen teacher."""

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
        (work,) = super().work
        return tuple(dataclasses.replace(work, role=role) for role in self.roles)

    def loss(self, models, part):
        batch = part.batch
        inputs = self.inputs(batch)
        student = models["student"](inputs, dropout=part.key, logits=True).logits
        teacher = models["teacher"](inputs, logits=True).logits
        teacher_logs = jax.nn.log_softmax(teacher)
        divergence = (jax.nn.softmax(teacher) * (teacher_logs - jax.nn.log_softmax(student))).sum(-1)
        loss = weighted(divergence, batch["weights"])
        return Loss(total=per_weight(loss.total, part.weights["tokens"]), metrics={"loss": loss})


def test_it_keeps_the_laws_and_the_teacher_does_not_change(tmp_path):
    rows = [{"tokens": laws.text(count, seed)} for seed, count in enumerate(tiny.LENGTHS)]
    small, large = (tiny.config("gpt2", over={"stack.depth": depth, "embed.max_length": 8}) for depth in (1, 2))
    case = laws.case(Distilled(CausalConfig(), tiny.VOCABULARY, 8), {"student": small, "teacher": large}, rows)
    states = laws.check(case, tmp_path)
    first, last = states[0], states[-1]
    assert set(first.params) == {"student"} and set(first.frozen) == {"teacher"}
    jax.tree.map(np.testing.assert_array_equal, first.frozen, last.frozen)
    size = sum(leaf.size for leaf in jax.tree.leaves(first.opt_state))
    assert size == sum(leaf.size for leaf in jax.tree.leaves(first.params)), "only the student has optimizer state"


def save_run(folder, repository):
    """Saves a run of both models; returns its experiment and its parameters by role."""
    models = {"model": gpt2("tiny"), "models": {"teacher": gpt2("tiny")}}
    recipe = ConfigDict({**models, "objective": {"name": "distilled"}})
    config, _ = flags.configure(recipe, ["--config.models.teacher.stack.depth=1", "--config.data.length=16"])
    exp = Experiment(experiment.parse(config), tokenizers.load(repository / "tests" / "golden" / "tokenizer"))
    values = tiny.random_params(exp.models.shapes)
    params, frozen = exp.models.split(jax.tree.map(jax.numpy.asarray, values))
    with Checkpointer(folder / "checkpoints") as checkpointer:
        checkpointer.save(0, {"params": params, "frozen": frozen}, {})
    (folder / experiment.SAVED).write_text(json.dumps(experiment.as_json(exp.config)))
    return exp, values


def test_a_fork_starts_from_every_role_or_for_another_objective_from_the_product(monkeypatch, repository, tmp_path):
    monkeypatch.setitem(OBJECTIVES, "distilled", Distilled)
    exp, values = save_run(tmp_path, repository)
    jax.tree.map(np.testing.assert_array_equal, forking.parameters(exp, tmp_path), values)
    plain = dataclasses.replace(exp.config, objective=ObjectiveConfig(name="causal"), models=Tree())
    alone = forking.parameters(Experiment(plain, exp.tokenizer), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, alone, {"model": values["student"]})
