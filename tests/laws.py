"""The laws that every objective keeps, for any objective with its models and a batch; a test of one needs a `Case`."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from lm_jax.core.sums import means
from lm_jax.core.trees import merged, named_leaves
from lm_jax.data.pipeline import KEYS
from lm_jax.models.model import build_model
from lm_jax.objectives.roles import Models
from lm_jax.parallel import mesh
from lm_jax.parallel.layout import Layout
from lm_jax.parallel.mesh import MeshConfig
from lm_jax.parallel.rules import Rules
from lm_jax.train import placing, state
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.train.gradients import accumulate, plain
from lm_jax.train.step import make_train_step

ROWS = 8
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@dataclasses.dataclass(frozen=True)
class Case:
    """An objective at work.

    Attributes:
      objective: the objective.
      models: its models by role.
      batch: numpy features of 8 rows of uneven lengths.
      rules: of the layout over several devices.
      rate: the learning rate.
    """

    objective: Any
    models: Models
    batch: Any
    rules: Rules = Rules()
    rate: float = 0.2

    @functools.cached_property
    def optimizer(self):
        """Has a state to place and to restore; its first step is one of plain descent."""
        return optax.sgd(self.rate, momentum=0.9)

    @functools.cached_property
    def first(self):
        """The state before the first step; kept on the host, because steps take over a state's memory."""
        params, frozen = self.models.split(tiny.drawn(self.models.shapes))
        carry = state.empty(self.objective.carry, ROWS)
        return jax.device_get(state.create(params, self.optimizer, loss_scaled=False, frozen=frozen, carry=carry))

    def layout(self, **axes):
        return Layout(mesh.make(MeshConfig(**axes), jax.devices()[: int(np.prod(list(axes.values())))]), self.rules)

    def placed(self, layout, what):
        """A state where the layout wants it."""
        axes = placing.state_axes(what, self.models.axes, self.objective.carry)
        return jax.device_put(what, layout.shardings(axes, what))

    def compiled(self, layout, gradients=plain):
        """The step, the state before the first one and the batch; compiled without optimisation, for a few calls."""
        arguments = self.placed(layout, self.first), self.put(layout)
        where = jax.tree.map(lambda leaf: leaf.sharding, arguments[0])
        function = make_train_step(self.objective, self.models, self.optimizer, gradients=gradients)
        step = layout.jit(function, out_shardings=(where, None))
        return step.lower(*arguments).compile(QUICK), *arguments

    def put(self, layout):
        return tiny.put(layout, self.batch, **{name: field.axis_names for name, field in self.objective.spec.items()})


def case(objective, configs, rows, *, models=None, **options):
    """The case of an objective whose roles are played by `configs`, on `rows` of text.

    Args:
      objective: the objective.
      configs: model settings by role.
      rows: eight rows as the row plan gives them.
      models: models by role, in place of those of `configs`.
      **options: as of `Case`.
    """
    made = [objective.features(row, np.random.default_rng(number)) for number, row in enumerate(rows)]
    batch = {name: np.stack([row[name] for row in made]) for name in made[0]}
    for name, field in objective.spec.items():
        assert batch[name].shape == (ROWS, *field.shape) and batch[name].dtype == field.dtype, name
    batch[KEYS] = np.random.default_rng(9).integers(0, 1 << 32, (ROWS, 2), np.uint32)
    models = models or {role: build_model(config, config.embed.vocab) for role, config in configs.items()}
    found = Models(objective.roles, models)
    found.check("toy")
    return Case(objective, found, batch, **options)


def check(one, tmp_path, *, steps=25, fall=0.8):
    """Every law, with as few compiled programs as they take; returns the states after each of `steps` steps."""
    alone = one.layout(data=1, fsdp=1, tensor=1)
    step, state, batch = one.compiled(alone)
    states, losses = [state], []
    for _ in range(steps):
        now, sums = step(states[-1], batch)
        states.append(now)
        losses.append((sum(means(sums)[term] for term in one.objective.terms), sums))
    assert losses[-1][0] < fall * losses[0][0], f"the loss does not fall: {[loss for loss, _ in losses]}"
    first = (states[1], losses[0][1])
    many = one.layout(data=2, fsdp=2, tensor=2)
    # In two parts on eight devices: two laws for one compiled program.
    parted, state, batch = one.compiled(many, plain if one.objective.coupled else accumulate(2))
    after, sums = parted(state, batch)
    same((after, sums), first)
    resumed(parted, batch, after, tmp_path)
    return states


def same(found, expected):
    """Two results of one step, up to float32 noise of sums in another order."""
    for name in ("params", "frozen", "carry"):
        ours, theirs = (named_leaves(getattr(each[0], name)) for each in (found, expected))
        for (path, mine), (_, other) in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(np.asarray(mine), np.asarray(other), atol=2e-6, rtol=1e-5, err_msg=path)
    assert means(found[1]) == pytest.approx(means(expected[1]), rel=2e-5, abs=1e-7)


def resumed(step, batch, now, tmp_path):
    """A state that was saved and restored, divided over devices as it is, goes on to the same bits."""
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        checkpointer.save(1, now, {})
        checkpointer.wait()
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), now)
        restored, _ = checkpointer.restore(like)
    (again, _), (expected, _) = step(restored, batch), step(now, batch)
    for (path, ours), theirs in zip(named_leaves(again), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs), err_msg=path)


def whole(one, now):
    """All parameters of a state by path, trained and frozen."""
    return dict(named_leaves(merged(now.params, now.frozen)))


def text(count, seed=0):
    """`count` ids of ordinary pieces."""
    return np.random.default_rng([seed, count]).integers(*tiny.VOCABULARY.ordinary, count).astype(np.int32)


def nothing(values):
    """Whether an array is all zeros."""
    return not np.asarray(values).any()


__all__ = ["Case", "case", "check", "jnp", "nothing", "text", "whole"]
