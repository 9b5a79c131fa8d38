"""A step gives equal results with accumulated gradients, on many devices, and with a scaled loss."""

import functools
import re

import jax
import jax.numpy as jnp
import laws
import numpy as np
import optax
import pytest
import tiny

from lm_jax.core.sums import means
from lm_jax.core.trees import named_leaves
from lm_jax.models.model import build_model
from lm_jax.objectives import cross_entropy
from lm_jax.objectives.roles import Models
from lm_jax.parallel import mesh
from lm_jax.parallel.layout import Layout
from lm_jax.parallel.mesh import MeshConfig
from lm_jax.parallel.rules import Rules
from lm_jax.train import optimizers, state
from lm_jax.train.gradients import accumulate, plain
from lm_jax.train.optimizers import OptimizerConfig, ScheduleConfig
from lm_jax.train.placing import state_axes
from lm_jax.train.step import make_eval_step, make_train_step

OBJECTIVES = ("causal", "masked", "span")
# Plain gradient descent: the new parameters are the old ones minus the gradients, so small differences are visible.
DESCENT = optax.sgd(1.0)
PLAIN, SEQUENCE = Rules(), Rules(stream=("tensor",))
setting = functools.cache(tiny.setting)


def stepped(name, gradients=plain):
    """State and metrics after one step on one device."""
    case = setting(name)
    step = jax.jit(make_train_step(case.objective, case.models, DESCENT, gradients=gradients))
    return step(state.create(case.params, DESCENT, loss_scaled=False), case.batch)


reference = functools.cache(stepped)


def assert_same(result, expected):
    """Compares two results of a step up to float32 noise: sums of hundreds of terms of size 1 in another order."""
    for (path, ours), theirs in zip(named_leaves(result[0].params), jax.tree.leaves(expected[0].params), strict=True):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=2e-6, err_msg=path)
    ours, theirs = means(result[1]), means(expected[1])
    assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_accumulating_four_micro_batches_is_one_step(name):
    weights = setting(name).batch["weights"]
    assert len({float(weights[part::4].sum()) for part in range(4)}) > 1, "the micro-batches should differ in weight"
    assert_same(stepped(name, accumulate(4)), reference(name))


def sharded_state(layout, case, optimizer):
    """The state of a case with the shardings of a layout."""
    new = state.create(case.params, optimizer, loss_scaled=False)
    return jax.device_put(new, layout.shardings(state_axes(new, case.axes), new))


def on_devices(name, data, fsdp, tensor, optimizer=DESCENT, gradients=plain, rules=PLAIN):
    case = setting(name)
    layout = Layout(mesh.make(MeshConfig(data=data, fsdp=fsdp, tensor=tensor)), rules)
    step = layout.jit(make_train_step(case.objective, case.models, optimizer, gradients=gradients))
    batch = tiny.put(layout, case.batch)
    now = sharded_state(layout, case, optimizer)
    program = step.lower(now, batch).compile()
    return program(now, batch), program


@pytest.mark.parametrize(
    ("name", "axes", "rules"),
    [
        ("causal", (8, 1, 1), PLAIN),
        ("causal", (2, 2, 2), SEQUENCE),
        ("masked", (2, 2, 2), SEQUENCE),
        ("span", (2, 2, 2), SEQUENCE),
    ],
)
def test_eight_devices_compute_what_one_does(name, axes, rules, monkeypatch):
    # A low limit, so that each device computes its logits in chunks.
    monkeypatch.setattr(cross_entropy, "LEAST_TOKENS", 4)
    result, program = on_devices(name, *axes, rules=rules)
    assert_same(result, reference(name))
    rows, length = setting(name).batch["tokens"].shape
    rows, length = rows // (axes[0] * axes[1]), length // (axes[2] if rules == SEQUENCE else 1)
    # An addition to the residual stream, of the shape that one device computes.
    assert re.search(rf"f32\[{rows},{length},64\]\S* add", program.as_text())


def test_parameters_and_optimizer_state_are_sharded_before_and_after_a_step():
    optimizer = optimizers.build_optimizer(OptimizerConfig(), 10, setting("causal").axes)
    # Fully sharded, with accumulation: the gradients of a micro-batch must not become replicated either.
    (new, sums), _ = on_devices("causal", 1, 4, 2, optimizer, accumulate(2))
    leaves = dict(named_leaves(new))
    shapes = {"in/kernel": (1, 64, 256), "attention/query/kernel": (1, 64, 2, 32), "token/embedding": (64, 64)}
    shards = {"in/kernel": (1, 16, 128), "attention/query/kernel": (1, 16, 1, 32), "token/embedding": (32, 16)}
    for name, shape in shapes.items():
        matches = [leaf for path, leaf in leaves.items() if path.endswith(name)]
        assert len(matches) == 3, "the parameter and Adam's two moments"
        for leaf in matches:
            assert leaf.shape == shape
            assert {shard.data.shape for shard in leaf.addressable_shards} == {shards[name]}, name
    assert means(sums)["loss"] == pytest.approx(means(reference("causal")[1])["loss"], rel=1e-5)
    assert means(sums)["gradient_norm"] == pytest.approx(means(reference("causal")[1])["gradient_norm"], rel=1e-5)


def test_a_scaled_loss_gives_the_same_gradients():
    case = setting("causal")
    step = jax.jit(make_train_step(case.objective, case.models, DESCENT))
    scaled, scaled_sums = step(state.create(case.params, DESCENT, loss_scaled=True), case.batch)
    # Scaling by a power of two is exact.
    expected, sums = reference("causal")
    assert tiny.largest_difference(scaled.params, expected.params) < 1e-7
    assert means(scaled_sums)["loss"] == pytest.approx(means(sums)["loss"], rel=1e-6)
    assert means(scaled_sums)["skipped"] == 0


@pytest.fixture(scope="module")
def half():
    """A float16 step, and the state before it."""
    case = tiny.setting("causal", dtype="float16")
    config = OptimizerConfig(learning_rate=1e-3, schedule=ScheduleConfig(name="constant"))
    optimizer = optimizers.build_optimizer(config, 10, case.axes)
    step = jax.jit(make_train_step(case.objective, case.models, optimizer))
    return lambda before: step(before, case.batch), state.create(case.params, optimizer, loss_scaled=True)


def with_scale(before, scale, good=0):
    return before.replace(loss_scale=state.LossScale(scale=jnp.float32(scale), good=jnp.int32(good)))


def test_an_overflow_skips_the_update_but_not_the_step(half):
    step, before = half
    after, sums = step(with_scale(before, 2.0**40))
    assert (int(after.step), int(after.updates)) == (1, 0)
    assert tiny.largest_difference(after.params, before.params) == 0
    for (path, ours), theirs in zip(named_leaves(after.opt_state), jax.tree.leaves(before.opt_state), strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=path)
    assert float(after.loss_scale.scale) == 2.0**39
    assert means(sums)["skipped"] == 1
    assert np.isfinite(means(sums)["loss"])


def test_without_overflow_float16_trains_and_the_scale_grows(half):
    step, before = half
    after, sums = step(with_scale(before, 2.0**10, good=1999))
    assert (int(after.step), int(after.updates)) == (1, 1)
    assert (float(after.loss_scale.scale), int(after.loss_scale.good)) == (2.0**11, 0)
    assert 0 < tiny.largest_difference(after.params, before.params) < 2e-3
    assert {leaf.dtype for leaf in jax.tree.leaves(after.params)} == {jnp.dtype("float32")}
    # float16 has 11 bits of precision, and the loss is about 4.
    assert means(sums)["loss"] == pytest.approx(means(reference("causal")[1])["loss"], rel=1e-2)


def test_evaluation_computes_the_metrics_of_training():
    case = setting("masked")
    sums = jax.jit(make_eval_step(case.objective, case.models))(state.Weights(case.params), case.batch)
    expected = {name: value for name, value in means(reference("masked")[1]).items() if name != "gradient_norm"}
    assert means(sums) == pytest.approx(expected, rel=1e-5)


def test_rows_without_weight_change_nothing():
    case = setting("causal")
    evaluate = jax.jit(make_eval_step(case.objective, case.models))
    empty = jax.tree.map(jnp.zeros_like, case.batch)
    padded = jax.tree.map(lambda leaf, zeros: jnp.concatenate([leaf[:5], zeros[:3]]), case.batch, empty)
    unweighted = case.batch | {"weights": case.batch["weights"].at[5:].set(0)}
    weights = state.Weights(case.params)
    loss, expected, nothing = (evaluate(weights, batch)["loss"] for batch in (padded, unweighted, empty))
    assert float(loss.total) == pytest.approx(float(expected.total), rel=1e-6)
    assert float(loss.weight) == float(case.batch["weights"][:5].sum())
    assert (float(nothing.total), float(nothing.weight)) == (0, 0)


def test_hashed_dropout_differs_between_steps():
    case, config = setting("masked"), tiny.config("bert", over={"stack.depth": 1, "stack.block.dropout": 0.5})
    models = Models(case.objective.roles, {"model": build_model(config, config.embed.vocab)})
    new = state.create({"model": tiny.random_params(models.models["model"].shapes)}, DESCENT, loss_scaled=False)
    step = make_train_step(case.objective, models, DESCENT, generator="hashed")
    step = jax.jit(step).lower(new, case.batch).compile(laws.QUICK)
    norm = lambda at: float(means(step(new.replace(step=jnp.int32(at)), case.batch)[1])["gradient_norm"])
    assert norm(0) == norm(0) != norm(1)
