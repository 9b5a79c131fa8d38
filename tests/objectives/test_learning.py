"""Every objective overfits one batch in seconds."""

import jax
import laws
import pytest
import tiny

from lm_jax import objectives
from lm_jax.core.config import Tree
from lm_jax.core.sums import means
from lm_jax.objectives import OBJECTIVES, ObjectiveConfig, build_objective
from lm_jax.objectives.mixture import MixtureConfig
from lm_jax.objectives.roles import product
from lm_jax.objectives.task import Task
from lm_jax.train import optimizers, state
from lm_jax.train.optimizers import AdamWConfig, OptimizerConfig, ScheduleConfig
from lm_jax.train.step import make_train_step

# Tasks are in test_tasks.py.
PRETRAINING = [name for name, cls in OBJECTIVES.items() if not issubclass(cls, Task)]


@pytest.mark.parametrize("name", PRETRAINING)
def test_every_objective_overfits_one_batch(name):
    case = tiny.setting(name)
    config = OptimizerConfig(
        learning_rate=1e-2, schedule=ScheduleConfig(name="constant"), adamw=AdamWConfig(weight_decay=0.0)
    )
    optimizer = optimizers.build_optimizer(config, 100, case.axes)
    step = jax.jit(make_train_step(case.objective, case.models, optimizer), donate_argnums=0)
    now, losses = state.create(case.params, optimizer, loss_scaled=False), []
    step = step.lower(now, case.batch).compile(laws.QUICK)
    for _ in range(80):
        now, sums = step(now, case.batch)
        losses.append(sum(means(sums)[term] for term in case.objective.terms))
    # Initially 4 (about ln 64) or more; at this constant rate a low loss may rise again for some steps.
    assert min(losses) < 0.1


def test_objectives_are_built_by_name():
    parts = MixtureConfig(parts=Tree(a=Tree(name="span"), b=Tree(name="prefix")))
    for name in PRETRAINING:
        cls = OBJECTIVES[name]
        config, kind = ObjectiveConfig(name=name, mixture=parts), getattr(cls, "kind", "encoder_decoder")
        objective = build_objective(config, tiny.VOCABULARY, 32, kind)
        assert isinstance(objective, cls)
        assert objective.reads.length > objective.reads.overlap >= 0
        assert dict(objective.roles) == dict(objectives.roles(config))
        assert product(objective.roles) in objective.roles
