"""Laws of training that hold for every objective; `check` tests them on a `Case`: an objective, models and a batch."""

import contextlib
import dataclasses
import functools
import os
import sys
import tempfile
from typing import Any

import jax
import numpy as np
import optax
import pytest
import tiny

from lm_jax.core.sums import means
from lm_jax.core.trees import merge, named_leaves
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
    """An objective with its models and a batch.

    Attributes:
      batch: numpy features of 8 rows of different lengths.
      rules: sharding rules for several devices.
      rate: learning rate.
      update: the optimizer; None: momentum, so that there is a state to shard and restore; its first step is plain SGD.
    """

    objective: Any
    models: Models
    batch: Any
    rules: Rules = Rules()
    rate: float = 0.2
    update: Any = None

    @functools.cached_property
    def optimizer(self):
        return self.update or optax.sgd(self.rate, momentum=0.9)

    @functools.cached_property
    def first(self):
        """The state before the first step, on the host, for any layout."""
        params, frozen = self.models.split(tiny.random_params(self.models.shapes))
        carry = state.empty_carry(self.objective.carry, ROWS)
        return jax.device_get(state.create(params, self.optimizer, loss_scaled=False, frozen=frozen, carry=carry))

    def layout(self, **axes):
        return Layout(mesh.make(MeshConfig(**axes), jax.devices()[: int(np.prod(list(axes.values())))]), self.rules)

    def sharded(self, layout, state):
        """A train state on the devices of a layout."""
        axes = placing.state_axes(state, self.models.axes, self.objective.carry)
        return jax.device_put(state, layout.shardings(axes, state))

    def compiled(self, layout, gradients=plain):
        """The step, compiled without optimisation for a few calls, with the first state and the batch."""
        arguments = self.sharded(layout, self.first), self.put(layout)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, arguments[0])
        function = make_train_step(self.objective, self.models, self.optimizer, gradients=gradients)
        step = layout.jit(function, out_shardings=(shardings, None))
        with nothing_rematerialised():
            return step.lower(*arguments).compile(QUICK), *arguments

    def put(self, layout):
        return tiny.put(layout, self.batch, **{name: field.axis_names for name, field in self.objective.spec.items()})


def case(objective, configs, rows, *, models=None, **options):
    """The case of an objective on eight rows of its row plan.

    `configs` are model settings by role; `models` by role replace them; `options` are other fields of `Case`.
    """
    features = [objective.features(row, np.random.default_rng(number)) for number, row in enumerate(rows)]
    batch = {name: np.stack([row[name] for row in features]) for name in features[0]}
    for name, field in objective.spec.items():
        assert batch[name].shape == (ROWS, *field.shape) and batch[name].dtype == field.dtype, name
    batch[KEYS] = np.random.default_rng(9).integers(0, 1 << 32, (ROWS, 2), np.uint32)
    models = models or {role: build_model(config, config.embed.vocab) for role, config in configs.items()}
    models = Models(objective.roles, models)
    models.check("toy")
    return Case(objective, models, batch, **options)


@contextlib.contextmanager
def nothing_rematerialised():
    """Fails if XLA's partitioner copies whole arrays to every device, which only a warning of its C++ code tells."""
    sys.stderr.flush()
    stream = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stream, 2)
            os.close(stream)
        file.seek(0)
        said = file.read().decode(errors="replace")
    sys.stderr.write(said)
    assert "Involuntary full rematerialization" not in said, said


def check(case, tmp_path, *, steps=25, fall=0.8):
    """Checks all laws, with two compiled programs; returns the first state and the state after each step."""
    step, state, batch = case.compiled(case.layout(data=1, fsdp=1, tensor=1))
    states, losses = [state], []
    for _ in range(steps):
        now, sums = step(states[-1], batch)
        states.append(now)
        losses.append((sum(means(sums)[term] for term in case.objective.terms), sums))
    assert losses[-1][0] < fall * losses[0][0], f"the loss does not fall: {[loss for loss, _ in losses]}"
    expected = (states[1], losses[0][1])
    many = case.layout(data=2, fsdp=2, tensor=2)
    # Two micro-batches on eight devices: one compiled program for two laws.
    step, state, batch = case.compiled(many, plain if case.objective.coupled else accumulate(2))
    after, sums = step(state, batch)
    assert_same(actual=(after, sums), expected=expected)
    assert_resumes(step, batch, after, tmp_path)
    return states


def assert_same(actual, expected):
    """Asserts that two results of one step are equal, up to the rounding of float32 sums in another order."""
    for name in ("params", "frozen", "carry"):
        ours, theirs = (named_leaves(getattr(state, name)) for state, _ in (actual, expected))
        for (path, leaf), (_, other) in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(np.asarray(leaf), np.asarray(other), atol=2e-6, rtol=1e-5, err_msg=path)
    assert means(actual[1]) == pytest.approx(means(expected[1]), rel=2e-5, abs=1e-7)


def assert_resumes(step, batch, now, tmp_path):
    """Asserts that a sharded state, saved and restored, continues bit for bit."""
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        checkpointer.save(1, now, {})
        checkpointer.wait()
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), now)
        restored, _ = checkpointer.restore(like)
    (again, _), (expected, _) = step(restored, batch), step(now, batch)
    for (path, ours), theirs in zip(named_leaves(again), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs), err_msg=path)


def all_params(state):
    """All parameters of a state by path, trained and frozen."""
    return dict(named_leaves(merge(state.params, state.frozen)))


def text(count, seed=0):
    """`count` random ids of ordinary pieces."""
    return np.random.default_rng([seed, count]).integers(*tiny.VOCABULARY.ordinary, count).astype(np.int32)
