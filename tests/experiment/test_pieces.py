"""Configurations that an experiment refuses before computing anything, and the terms of its losses."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
import tiny
from ml_collections import ConfigDict

from lm_jax import experiment
from lm_jax.core.config import InputError
from lm_jax.data import pipeline, tokenizers
from lm_jax.experiment import Experiment
from lm_jax.models.presets import PRESETS
from lm_jax.objectives import OBJECTIVES
from lm_jax.objectives.base import Part
from lm_jax.objectives.causal import Causal
from lm_jax.objectives.task import Task


@dataclasses.dataclass(frozen=True)
class Coupled(Causal):
    config: object

    coupled = True

    def __post_init__(self):
        """It has no settings."""


@pytest.fixture
def build_experiment(repository):
    """Builds an experiment with the `tiny` size of a preset; `settings` are subtrees of its recipe."""

    def build(preset, **settings):
        recipe = ConfigDict({"model": PRESETS[preset].build("tiny"), "data": {"length": 16}, **settings})
        config = experiment.parse(experiment.complete(recipe))
        return Experiment(config, tokenizers.load(repository / "tests" / "golden" / "tokenizer"))

    return build


def test_an_objective_that_couples_rows_refuses_accumulation_by_name(build_experiment, monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "coupled", Coupled)
    with pytest.raises(InputError, match="accumulate is 2, but config.objective.name 'coupled' couples the rows"):
        _ = build_experiment("gpt2", objective={"name": "coupled"}, train={"accumulate": 2}).objective
    _ = build_experiment("gpt2", objective={"name": "coupled"}).objective


def balanced(build_experiment, **settings):
    model = PRESETS["mixtral"].build("tiny")
    model.stack.block.feedforward.experts.balance = 0.02
    exp = build_experiment("mixtral", **settings)
    tree = experiment.parse(experiment.complete(ConfigDict({"model": model}))).model
    return dataclasses.replace(exp, config=dataclasses.replace(exp.config, model=tree))


def test_balanced_experts_refuse_accumulation_and_add_to_the_loss(build_experiment):
    with pytest.raises(InputError, match="accumulate is 4, but feedforward.experts.balance of config.model couples"):
        _ = balanced(build_experiment, train={"accumulate": 4}).models
    exp = balanced(build_experiment)
    batch = {name: jnp.zeros((2, *field.shape), field.dtype) for name, field in exp.objective.spec.items()}
    weights = exp.objective.weights(batch)

    def loss(params, key):
        return exp.objective.loss(exp.models.bind(params), Part(batch=batch, weights=weights, key=key)).metrics

    trained, evaluated = (jax.eval_shape(loss, exp.models.shapes, key) for key in (jax.random.key(0), None))
    assert set(trained) == {"loss", "balance_loss"} and set(evaluated) == {"loss"}


@pytest.mark.parametrize("name", [name for name, cls in OBJECTIVES.items() if not issubclass(cls, Task)])
def test_the_spec_of_an_objective_describes_its_features(name):
    case = tiny.setting(name)
    actual = {name: (array.shape[1:], array.dtype) for name, array in case.batch.items()}
    keys = {pipeline.KEYS: ((2,), "uint32")}
    assert actual == {name: (field.shape, field.dtype) for name, field in case.objective.spec.items()} | keys
    assert {work.role for work in case.objective.work} == set(case.objective.roles)


def test_an_experiment_can_use_some_of_the_devices(build_experiment):
    exp = dataclasses.replace(build_experiment("gpt2"), devices=jax.devices()[:2])
    assert exp.layout.mesh.devices.size == 2
    assert exp.batch_like["tokens"].sharding.device_set == set(jax.devices()[:2])
