"""Gradual unfreezing: each phase trains its groups as a plain step would, and leaves the bits of all others."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
import tiny

from lm_jax.adapt import AdaptConfig
from lm_jax.core.config import InputError
from lm_jax.core.trees import flatten, named_leaves
from lm_jax.train import optimizers, phases, state
from lm_jax.train.optimizers import OptimizerConfig, ScheduleConfig, SGDConfig
from lm_jax.train.placing import state_axes
from lm_jax.train.step import make_train_step

DEPTH, EVERY, STEPS = 3, 2, 100
DESCENT = OptimizerConfig(
    name="sgd", sgd=SGDConfig(momentum=0.0), clip=0.0, learning_rate=1.0, schedule=ScheduleConfig(name="constant")
)
ADAMW = OptimizerConfig(schedule=ScheduleConfig(name="constant"))


def case_of(name, depth=DEPTH, scan="never"):
    """The objective `causal`, `masked` or `span` with a model of several layers."""
    stacks = ("encoder", "decoder") if name == "span" else ("stack",)
    over = {f"{stack}.{key}": value for stack in stacks for key, value in (("depth", depth), ("scan", scan))}
    return tiny.setting(name, **over)


def phases_of(case, **settings):
    return phases.phases(case.models, AdaptConfig(method="gradual", **(settings or {"every": EVERY})), STEPS)


def built(case, number, config):
    """The train step of a phase, and its state before the first step."""
    plan = phases_of(case)
    build = lambda phase: phases.build_optimizer(plan, phase, config, STEPS, case.axes, {})
    step = make_train_step(case.objective, case.models, build(number))
    whole = build(len(plan.starts) - 1)
    return phases.in_phase(step, plan, number, clipped=bool(config.clip)), state.create(
        case.params, whole, loss_scaled=False, averaged=False
    )


def trained_rows(plan, params, number):
    """Of each parameter, whether its values are trained in a phase: an array that broadcasts against it."""
    reshape = lambda group, leaf: np.reshape(group, (-1, *[1] * (leaf.ndim - 1))) if np.ndim(group) else group
    return {path: reshape(plan.groups[path], leaf) <= number for path, leaf in flatten(params).items()}


@pytest.mark.parametrize(
    ("name", "scan", "number"),
    [
        ("causal", "never", 1),
        *(
            pytest.param(name, scan, number, marks=pytest.mark.slow)
            for name in ("causal", "masked", "span")
            for scan in ("never", "always")
            for number in (0, 2, DEPTH + 1)
        ),
    ],
)
def test_a_phase_takes_the_plain_step_with_its_groups_and_no_other_bit_changes(name, scan, number):
    case = case_of(name, scan=scan)
    step, now = built(case, number, DESCENT)
    plain = optimizers.build_optimizer(DESCENT, STEPS, case.axes)
    expected = tiny.run_once(
        make_train_step(case.objective, case.models, plain),
        state.create(case.params, plain, loss_scaled=False),
        case.batch,
    )[0]
    after = tiny.run_once(step, now, case.batch)[0]
    assert jax.tree.structure(after) == jax.tree.structure(now)
    before, rows = flatten(case.params), trained_rows(phases_of(case), case.params, number)
    for path, leaf in flatten(after.params).items():
        reference = np.where(rows[path], flatten(expected.params)[path], before[path])
        np.testing.assert_allclose(leaf, reference, atol=3e-6, rtol=1e-5, err_msg=path)
        frozen = np.broadcast_to(~np.asarray(rows[path]), leaf.shape)
        np.testing.assert_array_equal(np.asarray(leaf)[frozen], np.asarray(before[path])[frozen], err_msg=path)
        assert not np.any(rows[path]) or np.any(np.asarray(leaf) != np.asarray(before[path])), path


@pytest.mark.parametrize(("name", "deepest"), [("causal", "token"), ("masked", "token"), ("span", "token")])
def test_groups_go_from_the_output_to_the_embeddings(name, deepest):
    case = case_of(name)
    plan = phases_of(case)
    assert plan.starts == tuple(EVERY * group for group in range(DEPTH + 2))
    assert [plan.at(step) for step in (0, 1, 2, 3, 99)] == [0, 0, 1, 1, DEPTH + 1]
    for path, group in plan.groups.items():
        if "/layers/" in path:
            assert group.tolist() == [3, 2, 1], path
        elif path.split("/")[1] == deepest:
            assert group == DEPTH + 1, path
    assert {path.split("/")[1] for path, group in plan.groups.items() if np.ndim(group) == 0 and group == 0} == (
        {"masked": {"head", "pair"}, "causal": {"final_norm"}, "span": {"encoder_norm", "decoder_norm", "head"}}[name]
    )


def test_the_state_of_a_group_begins_when_it_is_trained():
    case, config = case_of("causal", depth=1), dataclasses.replace(ADAMW, clip=1.0)
    steps = [tiny.run_once for _ in range(2)]
    now, counts = built(case, 0, config)[1], []
    for number, run in enumerate(steps):
        before = now
        now = run(built(case, number, config)[0], now, case.batch)[0]
        groups = now.opt_state[1]
        counts.append([int(optax.tree.get_all_with_path(each, "count")[0][1]) for each in groups])
        for group, (old, new) in enumerate(zip(before.opt_state[1], groups, strict=True)):
            same = all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (old, new)), strict=True))
            assert same == (group > number)
    assert counts == [[1, 0, 0], [2, 1, 0]]


def test_a_group_learns_at_the_rate_of_the_run():
    case = case_of("causal")
    config = dataclasses.replace(DESCENT, schedule=ScheduleConfig(name="linear", warmup=10), learning_rate=0.5)
    plan = phases_of(case)
    optimizer = phases.build_optimizer(plan, 2, config, STEPS, case.axes, {})
    trained, _ = plan.divide(case.params, 2)
    ones = jax.tree.map(np.ones_like, trained)
    updates, _ = optimizer.update(ones, optimizer.init(case.params), trained)
    rates = flatten(updates)["model/stack/apart/layers/attention/query/kernel"][:, 0, 0, 0]
    of_run = optimizers.schedule(config, STEPS)
    np.testing.assert_allclose(-rates, [of_run(plan.starts[2]), of_run(plan.starts[1])], rtol=1e-6)


def test_layers_below_the_trained_ones_are_not_differentiated():
    case = case_of("causal")

    def products(number):
        step, now = built(case, number, DESCENT)
        return str(jax.make_jaxpr(step)(now, case.batch)).count("dot_general")

    counts = [products(number) for number in range(DEPTH + 2)]
    forward = str(jax.make_jaxpr(lambda p: case.models.bind(p)["model"](tiny_inputs(case)).hidden)(case.params))
    layer = forward.count("dot_general") // DEPTH
    # The gradients of a layer: of the inputs and of the weights of each of its products.
    assert all(after - before >= layer for before, after in zip(counts[:-2], counts[1:-1], strict=True)), counts


def tiny_inputs(case):
    from lm_jax.models.interface import Inputs

    return Inputs(tokens=np.asarray(case.batch["tokens"])[:, :4])


@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon"])
def test_the_moments_of_some_layers_have_the_axes_of_their_parameter(name):
    case = case_of("span")
    config = dataclasses.replace(ADAMW, name=name)
    plan = phases_of(case)
    optimizer = phases.build_optimizer(plan, len(plan.starts) - 1, config, STEPS, case.axes, {})
    shapes = jax.eval_shape(lambda: state.create(case.params, optimizer, loss_scaled=False))
    axes = dict(named_leaves(state_axes(shapes, case.axes), is_leaf=lambda leaf: isinstance(leaf, tuple)))
    assert all(len(axes[path]) == leaf.ndim for path, leaf in named_leaves(shapes) if path in axes)
    assert any("layers" in names for path, names in axes.items() if path.startswith("opt_state"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"every": 40},
            "every has the embeddings trained after step 160, but the run ends at step 100; lower it to 24",
        ),
        ({"steps": (1, 2, 3, 100)}, "steps has the embeddings trained after step 100, but the run ends at step 100"),
        ({"steps": (1, 2)}, "steps has 2 numbers, but 4 groups of parameters follow the first one; give 4 numbers"),
    ],
)
def test_phases_that_do_not_fit_the_run_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        phases_of(case_of("causal"), **settings)
