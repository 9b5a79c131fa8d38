"""Gradual unfreezing: each phase trains its groups as a plain step would, and leaves the bits of all others."""

import dataclasses

import jax
import jax.numpy as jnp
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
    now = state.create(case.params, whole, loss_scaled=False)
    return phases.in_phase(step, plan, number, clipped=bool(config.clip)), now


def trained_rows(plan, params, number):
    """Of each parameter, whether its values are trained in a phase: an array that broadcasts against it."""
    reshape = lambda group, leaf: np.reshape(group, (-1, *[1] * (leaf.ndim - 1))) if np.ndim(group) else group
    return {path: reshape(plan.groups[path], leaf) <= number for path, leaf in flatten(params).items()}


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, DEPTH, DEPTH + 1])
@pytest.mark.parametrize("scan", ["never", "always"])
@pytest.mark.parametrize("name", ["causal", "masked", "span"])
def test_a_phase_takes_the_plain_step_with_its_groups(name, scan, number):
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
    check_bits(case, after, number)
    before, rows = flatten(case.params), trained_rows(phases_of(case), case.params, number)
    for path, leaf in flatten(after.params).items():
        reference = np.where(rows[path], flatten(expected.params)[path], before[path])
        np.testing.assert_allclose(leaf, reference, atol=3e-6, rtol=1e-5, err_msg=path)


def check_bits(case, after, number):
    """Asserts that a step of a phase has changed its groups and no bit of the others."""
    rows = trained_rows(phases_of(case), case.params, number)
    for path, leaf in flatten(after.params).items():
        before, frozen = np.asarray(flatten(case.params)[path]), np.broadcast_to(~np.asarray(rows[path]), leaf.shape)
        np.testing.assert_array_equal(np.asarray(leaf)[frozen], before[frozen], err_msg=path)
        assert frozen.all() or np.any(np.asarray(leaf) != before), path


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("causal", 1),
        ("span", DEPTH + 1),
        *(pytest.param(name, 2, marks=pytest.mark.slow) for name in ("causal", "masked", "span")),
        *(pytest.param(name, 0, marks=pytest.mark.slow) for name in ("causal", "masked", "span")),
    ],
)
def test_a_phase_writes_its_groups_and_no_other_bit(name, number):
    case, seen = case_of(name), {}

    def step(now, batch):
        seen.update(params=now.params, frozen=now.frozen)
        more = lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree)
        return now.replace(params=more(now.params), averaged=more(now.averaged), opt_state=more(now.opt_state)), {}

    plan = phases_of(case)
    optimizer = phases.build_optimizer(plan, len(plan.starts) - 1, ADAMW, STEPS, case.axes, {})
    now = state.create(case.params, optimizer, loss_scaled=False, averaged=True)
    after, _ = phases.in_phase(step, plan, number, clipped=True)(now, case.batch)
    assert jax.tree.map(np.shape, after) == jax.tree.map(np.shape, now)
    check_bits(case, after, number)
    check_bits(case, after.replace(params=after.averaged), number)
    changed = [any(map(np.any, jax.tree.leaves(group))) for group in after.opt_state[1]]
    assert changed == [group <= number for group in range(len(plan.starts))]
    assert ("frozen" in seen) and not {*flatten(seen["params"])} & {*flatten(seen["frozen"])}


@pytest.mark.parametrize("name", ["span", *(pytest.param(x, marks=pytest.mark.slow) for x in ("causal", "masked"))])
def test_groups_go_from_the_output_to_the_embeddings(name):
    case = case_of(name)
    plan = phases_of(case)
    assert plan.starts == tuple(EVERY * group for group in range(DEPTH + 2))
    assert [plan.at(step) for step in (0, 1, 2, 3, 99)] == [0, 0, 1, 1, DEPTH + 1]
    for path, group in plan.groups.items():
        if "/layers/" in path:
            assert group.tolist() == [3, 2, 1], path
        elif path.split("/")[1] == "token":
            assert group == DEPTH + 1, path
    assert {path.split("/")[1] for path, group in plan.groups.items() if np.ndim(group) == 0 and group == 0} == (
        {"masked": {"head", "pair"}, "causal": {"final_norm"}, "span": {"encoder_norm", "decoder_norm", "head"}}[name]
    )


def test_the_moments_of_a_group_begin_when_it_is_trained():
    case = case_of("causal", depth=1)
    plan, config = phases_of(case), dataclasses.replace(ADAMW, clip=0.0, learning_rate=1.0, no_decay=("",))
    build = lambda phase: phases.build_optimizer(plan, phase, config, STEPS, case.axes, {})
    states = build(2).init(case.params)
    for phase in (0, 1):
        trained, _ = plan.divide(case.params, phase)
        updates, new = build(phase).update(jax.tree.map(jnp.ones_like, trained), states[: phase + 1], trained)
        states = (*new, *states[phase + 1 :])
        # Adam corrects the bias of every group, so that equal gradients give updates of size 1.
        for path, update in flatten(updates).items():
            np.testing.assert_allclose(update, -1, rtol=1e-5, err_msg=path)
    assert [int(optax.tree.get_all_with_path(each, "count")[0][1]) for each in states] == [2, 1, 0]
    assert not any(map(np.any, jax.tree.leaves(states[2])))


@pytest.mark.slow
def test_a_group_learns_at_the_rate_of_the_run():
    case = case_of("causal")
    config = dataclasses.replace(DESCENT, schedule=ScheduleConfig(name="linear", warmup=10), learning_rate=0.5)
    plan = phases_of(case)
    optimizer = phases.build_optimizer(plan, 2, config, STEPS, case.axes, {})
    trained, _ = plan.divide(case.params, 2)
    ones = jax.tree.map(jnp.ones_like, trained)
    updates, _ = optimizer.update(ones, optimizer.init(case.params), trained)
    rates = flatten(updates)["model/stack/apart/layers/attention/query/kernel"][:, 0, 0, 0]
    of_run = optimizers.schedule(config, STEPS)
    np.testing.assert_allclose(-rates, [of_run(plan.starts[2]), of_run(plan.starts[1])], rtol=1e-6)


def test_layers_below_the_trained_ones_are_not_differentiated():
    case = case_of("causal", depth=2)

    def products(number):
        step, now = built(case, number, DESCENT)
        return str(jax.make_jaxpr(step)(now, case.batch)).count("dot_general")

    counts = [products(number) for number in range(3)]
    assert counts == sorted(set(counts)), counts


@pytest.mark.parametrize("name", ["adafactor", *(pytest.param(x, marks=pytest.mark.slow) for x in ("adamw", "muon"))])
def test_the_moments_of_some_layers_have_the_axes_of_their_parameter(name):
    case = case_of("span")
    config = dataclasses.replace(ADAMW, name=name)
    plan = phases_of(case)
    optimizer = phases.build_optimizer(plan, len(plan.starts) - 1, config, STEPS, case.axes, {})
    shapes = jax.eval_shape(lambda: state.create(case.params, optimizer, loss_scaled=False))
    axes = jax.tree.structure(shapes).flatten_up_to(state_axes(shapes, case.axes))
    for (path, leaf), names in zip(named_leaves(shapes), axes, strict=True):
        assert len(names) == leaf.ndim and ("layers" in names or "/layers/" not in path or leaf.size == 1), path


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
