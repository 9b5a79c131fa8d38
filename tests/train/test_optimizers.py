"""Schedules, clipping, weight decay, and optimizers that update whole matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from lm_jax.core.config import InputError
from lm_jax.train import optimizers, schedules
from lm_jax.train.optimizers import (
    AdafactorConfig,
    AdamWConfig,
    LionConfig,
    Multiplier,
    MuonConfig,
    OptimizerConfig,
    ScheduleFreeConfig,
    SGDConfig,
)
from lm_jax.train.schedules import ScheduleConfig


def rate(name, count, *, warmup=10, final=0.1, steps=110, peak=2.0):
    config = OptimizerConfig(learning_rate=peak, schedule=ScheduleConfig(name=name, warmup=warmup, final=final))
    return float(optimizers.schedule(config, steps)(count))


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_every_warmup_rises_from_one_step_above_zero_to_the_peak(name):
    assert rate(name, 0) == pytest.approx(2.0 / 11)
    assert rate(name, 9) == pytest.approx(2.0 * 10 / 11)
    assert rate(name, 10) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("name", "halfway", "end"),
    [
        ("constant", 2.0, 2.0),
        ("linear", 1.1, 0.2),
        ("cosine", 1.1, 0.2),
        ("rsqrt", 2.0 * (10 / 60) ** 0.5, 2.0 * (10 / 110) ** 0.5),
        ("wsd", 2.0, 0.2),
    ],
)
def test_schedules_at_their_key_points(name, halfway, end):
    assert rate(name, 60) == pytest.approx(halfway, rel=1e-5)
    assert rate(name, 110) == pytest.approx(end, rel=1e-5)


def test_wsd_stays_at_the_peak_and_decays_linearly_over_the_last_fraction():
    # The last 22 of 110 steps decay.
    assert rate("wsd", 88) == pytest.approx(2.0)
    assert rate("wsd", 99) == pytest.approx(1.1)
    assert rate("wsd", 500) == pytest.approx(0.2)


@pytest.mark.parametrize("decay", [0.0, 1.5])
def test_a_decay_that_is_not_a_fraction_is_refused(decay):
    with pytest.raises(InputError, match=r"schedule\.decay is .*expected a fraction"):
        ScheduleConfig(decay=decay)


def test_the_final_rate_stays_after_the_end():
    assert rate("linear", 500) == rate("cosine", 500) == pytest.approx(0.2)


def test_without_a_warmup_the_first_update_has_the_peak_rate():
    assert rate("cosine", 0, warmup=0) == 2.0


def test_a_schedule_may_be_shorter_than_the_run():
    config = OptimizerConfig(schedule=ScheduleConfig(name="linear", steps=50, final=0.0))
    assert optimizers.schedule(config, 1000)(50) == 0


def test_a_warmup_longer_than_the_run_is_refused():
    with pytest.raises(InputError, match=r"schedule\.warmup is 10, longer than the 5 steps"):
        rate("cosine", 0, steps=5)


def test_unknown_names_list_the_choices():
    with pytest.raises(InputError, match=r"config\.optimizer\.name is 'adam'; expected one of adamw"):
        optimizers.build_optimizer(OptimizerConfig(name="adam"), 10, {})
    with pytest.raises(InputError, match=r"config\.optimizer\.schedule\.name is 'cosin'.*did you mean cosine"):
        rate("cosin", 0)


def first_update(config, params, grads, axes=None):
    optimizer = optimizers.build_optimizer(config, 10, axes or {})
    changes, _ = jax.jit(optimizer.update)(grads, jax.jit(optimizer.init)(params), params)
    return changes


STEADY = ScheduleConfig(name="constant")


def test_adamw_follows_its_formula():
    config = OptimizerConfig(learning_rate=0.1, clip=0.0, schedule=STEADY, adamw=AdamWConfig(weight_decay=0.5))
    params, grads = {"kernel": jnp.array([1.0, -2.0])}, {"kernel": jnp.array([3.0, -0.5])}
    # At the first update the bias-corrected moments are g and g ** 2, so the step is sign(g) plus the decay.
    expected = -0.1 * (np.sign([3.0, -0.5]) + 0.5 * np.array([1.0, -2.0]))
    np.testing.assert_allclose(first_update(config, params, grads)["kernel"], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion", "sgd", "muon"])
def test_biases_scales_and_norms_do_not_decay(name):
    decay = {
        "adamw": AdamWConfig(weight_decay=0.5),
        "adafactor": AdafactorConfig(weight_decay=0.5),
        "lion": LionConfig(weight_decay=0.5),
        "sgd": SGDConfig(weight_decay=0.5),
        "muon": MuonConfig(weight_decay=0.5),
    }
    config = OptimizerConfig(name=name, learning_rate=0.1, schedule=STEADY, **decay)
    layer = {"kernel": jnp.ones((2, 3, 3)), "bias": jnp.ones((2, 3))}
    params = {
        "model": {"layers": {"in": layer, "attention_norm": {"scale": jnp.ones((2, 3))}}, "position": jnp.ones((4, 3))}
    }
    names = {"kernel": ("layers", "embed", "mlp"), "bias": ("layers", "mlp")}
    norm = {"scale": ("layers", "norm")}
    axes = {"model": {"layers": {"in": names, "attention_norm": norm}, "position": ("position", "embed")}}
    # Without gradients only the decay remains.
    changes = first_update(config, params, jax.tree.map(jnp.zeros_like, params), axes)["model"]
    np.testing.assert_allclose(changes["layers"]["in"]["kernel"], -0.05, rtol=1e-5)
    np.testing.assert_allclose(changes["position"], -0.05, rtol=1e-5)
    assert not changes["layers"]["in"]["bias"].any()
    assert not changes["layers"]["attention_norm"]["scale"].any()


def test_clipping_scales_all_gradients_to_the_maximum_norm():
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    config = OptimizerConfig(name="adamw", clip=1.0)
    sgd = optax.chain(optax.clip_by_global_norm(config.clip), optax.sgd(1.0))
    changes, _ = sgd.update(grads, sgd.init(grads))
    np.testing.assert_allclose([changes["a"][0], changes["b"][0]], [-0.6, -0.8], rtol=1e-6)
    # Adam's first moment is 0.1 times its input.
    optimizer = optimizers.build_optimizer(config, 10, {})
    _, state = optimizer.update(grads, optimizer.init(grads), grads)
    moments = optax.tree.get(state, "mu")
    np.testing.assert_allclose([moments["a"][0], moments["b"][0]], [0.06, 0.08], rtol=1e-5)


def test_the_learning_rate_follows_the_number_of_updates():
    schedule, adamw = ScheduleConfig(name="linear", final=0.0), AdamWConfig(weight_decay=0.0)
    config = OptimizerConfig(learning_rate=1.0, clip=0.0, schedule=schedule, adamw=adamw)
    optimizer = optimizers.build_optimizer(config, 4, {})
    params = {"kernel": jnp.array([0.0])}
    state, sizes = optimizer.init(params), []
    for _ in range(4):
        changes, state = optimizer.update({"kernel": jnp.array([1.0])}, state, params)
        sizes.append(float(-changes["kernel"][0]))
    # With constant gradients Adam's steps equal the learning rate.
    np.testing.assert_allclose(sizes, [1.0, 0.75, 0.5, 0.25], rtol=1e-4)


@pytest.mark.parametrize("scale_by_parameter", [True, False])
def test_adafactor_treats_stacked_layers_like_separate_ones(scale_by_parameter):
    config = OptimizerConfig(
        name="adafactor",
        learning_rate=0.1,
        clip=0.0,
        schedule=STEADY,
        adafactor=AdafactorConfig(scale_by_parameter=scale_by_parameter),
    )
    rng = np.random.default_rng(0)
    # At least 128 x 128, so that Adafactor factors the second moments into rows and columns.
    shapes = {
        "attention/query/kernel": (2, 128, 4, 32),
        "attention/out/kernel": (2, 4, 32, 128),
        "in/kernel": (2, 128, 130),
        "in/bias": (2, 130),
    }
    names = {
        "attention/query/kernel": ("embed", "heads", "kv"),
        "attention/out/kernel": ("heads", "kv", "embed"),
        "in/kernel": ("embed", "mlp"),
        "in/bias": ("mlp",),
    }
    joined = {name: ("embed", "mlp") if len(axes) > 1 else axes for name, axes in names.items()}
    sizes = np.array([1.0, 30.0], np.float32)
    draw = lambda: {
        name: rng.standard_normal(shape, np.float32) * sizes.reshape(-1, *[1] * (len(shape) - 1))
        for name, shape in shapes.items()
    }
    params, all_grads = draw(), [draw(), draw()]
    flat = {
        "attention/query/kernel": (128, 128),
        "attention/out/kernel": (128, 128),
        "in/kernel": (128, 130),
        "in/bias": (130,),
    }

    def train(tree_of, axes):
        optimizer = optimizers.build_optimizer(config, 10, axes)
        update, tree = jax.jit(optimizer.update), tree_of(params)
        state = optimizer.init(tree)
        for grads in all_grads:
            changes, state = update(tree_of(grads), state, tree)
            tree = optax.apply_updates(tree, changes)
        return tree

    stacked = train(
        lambda arrays: {"stack/layers/" + name: jnp.asarray(array) for name, array in arrays.items()},
        {"stack/layers/" + name: ("layers", *axes) for name, axes in names.items()},
    )
    separate = train(
        lambda arrays: {
            f"layer_{layer}/{name}": jnp.asarray(array[layer].reshape(flat[name]))
            for name, array in arrays.items()
            for layer in range(2)
        },
        {f"layer_{layer}/{name}": axes for name, axes in joined.items() for layer in range(2)},
    )
    for name in shapes:
        for layer in range(2):
            weights = stacked["stack/layers/" + name][layer].reshape(flat[name])
            # float32 means over 128 numbers in another order.
            np.testing.assert_allclose(weights, separate[f"layer_{layer}/{name}"], rtol=1e-4, atol=1e-4, err_msg=name)


def test_adafactor_factors_the_matrix_of_each_layer():
    params = {"layers": {"query": {"kernel": jnp.ones((3, 128, 4, 32))}}}
    axes = {"layers": {"query": {"kernel": ("layers", "embed", "heads", "kv")}}}
    state = optimizers.build_optimizer(OptimizerConfig(name="adafactor"), 10, axes).init(params)
    shapes = {leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim}
    assert (3, 128) in shapes
    assert max(np.prod(shape) for shape in shapes) == 3 * 128


@pytest.mark.parametrize(
    ("name", "moments"),
    [("adafactor", {(3, 128), (2, 128), (2, 4, 128), (2, 4, 256)}), ("muon", {(3, 128, 128), (2, 128, 128)})],
)
def test_stacks_of_different_depth_and_experts_are_separate_matrices(name, moments):
    shapes = {"a/query": (3, 128, 4, 32), "b/query": (2, 128, 4, 32), "b/experts": (2, 4, 128, 256)}
    axes = {path: ("layers", "embed", "heads", "kv") for path in shapes} | {
        "b/experts": ("layers", "experts", "embed", "mlp")
    }
    params = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()}
    optimizer = optimizers.build_optimizer(OptimizerConfig(name=name), 10, axes)
    state = jax.eval_shape(optimizer.init, params)
    assert moments <= {leaf.shape for leaf in jax.tree.leaves(state)}
    updates, after = jax.eval_shape(optimizer.update, params, state, params)
    assert (updates, after) == (params, state)


def test_lion_steps_by_the_sign_of_its_interpolation():
    config = OptimizerConfig(
        name="lion", learning_rate=0.1, clip=0.0, schedule=STEADY, lion=LionConfig(weight_decay=0.0)
    )
    changes = first_update(config, {"kernel": jnp.ones(3)}, {"kernel": jnp.array([3.0, -0.5, 0.0])})
    np.testing.assert_allclose(changes["kernel"], [-0.1, 0.1, 0.0], rtol=1e-6)


def test_sgd_with_nesterovs_momentum_looks_ahead():
    config = OptimizerConfig(name="sgd", learning_rate=1.0, clip=0.0, schedule=STEADY)
    # The first momentum is g, so the step is g + 0.9 g.
    changes = first_update(config, {"kernel": jnp.zeros(1)}, {"kernel": jnp.ones(1)})
    np.testing.assert_allclose(changes["kernel"], [-1.9], rtol=1e-6)


def test_muon_orthogonalises_the_matrices_of_each_layer_and_adamw_updates_the_rest():
    config = OptimizerConfig(
        name="muon", learning_rate=0.1, clip=0.0, schedule=STEADY, muon=MuonConfig(weight_decay=0.0, rest=0.5)
    )
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32))
    grads = {
        "embed": {"table": draw(20, 16)},
        "stack": {
            "layers": {"query": {"kernel": draw(3, 16, 4, 4), "bias": draw(3, 4, 4)}, "in": {"kernel": draw(3, 16, 64)}}
        },
    }
    query = {"kernel": ("layers", "embed", "heads", "kv"), "bias": ("layers", "heads", "kv")}
    axes = {
        "embed": {"table": ("vocab", "embed")},
        "stack": {"layers": {"query": query, "in": {"kernel": ("layers", "embed", "mlp")}}},
    }
    changes = first_update(config, jax.tree.map(jnp.zeros_like, grads), grads, axes)
    layers = changes["stack"]["layers"]
    for name, shape in (("query", (16, 16)), ("in", (16, 64))):
        for layer in range(3):
            update = np.asarray(layers[name]["kernel"][layer]).reshape(shape)
            values = np.linalg.svd(update, compute_uv=False) / (0.1 * 0.2 * max(shape) ** 0.5)
            # Five Newton-Schulz iterations bring singular values near 1, not exactly to 1.
            assert values.min() > 0.5 and values.max() < 1.3, (name, layer, values)
    for leaf in (changes["embed"]["table"], layers["query"]["bias"]):
        np.testing.assert_allclose(np.abs(leaf), 0.05, rtol=1e-3)


@pytest.mark.parametrize("iterations", [1, 3, 5])
def test_matrices_of_one_shape_are_orthogonalised_together_as_optax_does_one_by_one(iterations):
    rng = np.random.default_rng(0)
    # Singular values from 1 down to 1e-6.
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape) * np.exp(-np.linspace(0, 14, shape[1]))[None], "f4")
    matrices = {"a": draw(16, 16), "b": draw(16, 64), "c": draw(64, 16), "d": draw(16, 16), "e": draw(16, 64)}
    matrices = {path: x / jnp.linalg.norm(x) for path, x in matrices.items()}
    coefficients = jnp.array([3.4445, -4.7750, 2.0315])

    together = optimizers.orthogonalised(matrices, coefficients, iterations)

    dimensions = {path: contrib.MuonDimensionNumbers() for path in matrices}
    muon = contrib.scale_by_muon(ns_steps=iterations, beta=0.0, nesterov=False, weight_dimension_numbers=dimensions)
    alone, _ = muon.update(matrices, muon.init(matrices))
    for path in matrices:
        # float32: products of Gram matrices lose digits of the smallest singular values.
        np.testing.assert_allclose(together[path], alone[path], atol=1e-3, err_msg=path)


def test_multipliers_scale_the_updates_of_matching_paths_decay_included():
    config = OptimizerConfig(
        learning_rate=0.1,
        clip=0.0,
        schedule=STEADY,
        adamw=AdamWConfig(weight_decay=0.5),
        multipliers=(Multiplier(pattern="^model/embed", factor=0.1), Multiplier(pattern="table$", factor=2.0)),
    )
    params = {"model": {"embed": {"table": jnp.ones(2)}, "head": {"kernel": jnp.ones(2), "table": jnp.ones(2)}}}
    changes = first_update(config, params, jax.tree.map(jnp.ones_like, params))["model"]
    unscaled = -0.1 * 1.5
    np.testing.assert_allclose(changes["embed"]["table"], 0.2 * unscaled, rtol=1e-5)
    np.testing.assert_allclose(changes["head"]["kernel"], unscaled, rtol=1e-5)
    np.testing.assert_allclose(changes["head"]["table"], 2 * unscaled, rtol=1e-5)


def test_factors_of_the_model_multiply_those_of_the_config():
    config = OptimizerConfig(
        learning_rate=0.1, clip=0.0, schedule=STEADY, multipliers=(Multiplier(pattern="a", factor=3.0),)
    )
    optimizer = optimizers.build_optimizer(config, 10, {}, {"a": 0.5})
    changes, _ = optimizer.update({"a": jnp.ones(1)}, optimizer.init({"a": jnp.zeros(1)}), {"a": jnp.zeros(1)})
    np.testing.assert_allclose(changes["a"], -0.15, rtol=1e-5)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_every_optimizer_multiplies_the_updates_of_each_layer(name):
    config = OptimizerConfig(name=name, learning_rate=0.1, clip=0.0, schedule=STEADY)
    shapes = {"layers": {"kernel": (3, 4, 2), "bias": (3, 2)}}
    axes = {"layers": {"kernel": ("layers", "embed", "mlp"), "bias": ("layers", "mlp")}}
    factors = {"layers/kernel": np.array([0.25, 0.5, 1.0], np.float32).reshape(3, 1, 1), "layers/bias": 0.5}
    rng = np.random.default_rng(0)
    draw = lambda shape: jnp.asarray(rng.standard_normal(shape, np.float32))
    params, grads = ({"layers": {key: draw(shape) for key, shape in shapes["layers"].items()}} for _ in range(2))

    def update(factors):
        optimizer = optimizers.build_optimizer(config, 10, axes, factors)
        return optimizer.update(grads, optimizer.init(params), params)[0]["layers"]

    plain, scaled = update(None), update(factors)
    np.testing.assert_allclose(scaled["kernel"], plain["kernel"] * factors["layers/kernel"], rtol=1e-5)
    np.testing.assert_allclose(scaled["bias"], plain["bias"] * 0.5, rtol=1e-5)


def test_patterns_match_paths_with_and_without_the_role():
    config = OptimizerConfig(
        learning_rate=0.1,
        clip=0.0,
        schedule=STEADY,
        adamw=AdamWConfig(weight_decay=0.5),
        no_decay=("^head",),
        multipliers=(Multiplier(pattern="^token", factor=0.1),),
    )
    params = {"model": {"token": {"table": jnp.ones(2)}, "head": {"table": jnp.ones(2)}}}
    changes = first_update(config, params, jax.tree.map(jnp.ones_like, params))["model"]
    np.testing.assert_allclose(changes["token"]["table"], -0.1 * 1.5 * 0.1, rtol=1e-5)
    np.testing.assert_allclose(changes["head"]["table"], -0.1, rtol=1e-5)


def test_schedule_free_refuses_a_schedule():
    with pytest.raises(InputError, match=r"schedule\.name is 'cosine'; optimizer schedule_free requires 'constant'"):
        optimizers.build_optimizer(OptimizerConfig(name="schedule_free"), 10, {})


def test_the_average_of_schedule_free_reaches_the_minimum_of_a_noisy_quadratic():
    from lm_jax.train import averaging, state

    config = OptimizerConfig(
        name="schedule_free",
        learning_rate=0.1,
        clip=0.0,
        schedule=ScheduleConfig(name="constant", warmup=10),
        schedule_free=ScheduleFreeConfig(weight_decay=0.0),
    )
    optimizer = optimizers.build_optimizer(config, 300, {})
    average = averaging.schedule_free(0.9)
    noise = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)

    @jax.jit
    def step(now, shift):
        grads = jax.tree.map(lambda x: 2 * (x - 3.0) + shift, now.params)
        changes, opt_state = optimizer.update(grads, now.opt_state, now.params)
        params = optax.apply_updates(now.params, changes)
        averaged = average(now.averaged, params, opt_state, now.updates)
        return now.replace(params=params, opt_state=opt_state, averaged=averaged, updates=now.updates + 1)

    now = state.create({"kernel": jnp.zeros(4)}, optimizer, loss_scaled=False, averaged=True)
    for shift in noise:
        now = step(now, shift)
    fast = np.abs(np.asarray(optax.tree.get(now.opt_state, "z")["kernel"]) - 3.0).max()
    averaged = np.abs(np.asarray(now.weights.params["kernel"]) - 3.0).max()
    assert averaged < 0.1 and averaged < fast


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_a_warmup_below_one_is_a_fraction_of_the_steps(name):
    fraction = ScheduleConfig(name=name, warmup=0.1)
    steps = ScheduleConfig(name=name, warmup=20)
    rates = [schedules.build_schedule(config, 1.0, 200) for config in (fraction, steps)]
    assert [rates[0](count) for count in range(0, 200, 7)] == [rates[1](count) for count in range(0, 200, 7)]
    assert fraction.resolved(3) == (0, 3)


def test_a_warmup_of_one_is_one_step():
    assert ScheduleConfig(warmup=1).resolved(200) == (1, 200)


@pytest.mark.parametrize(("before", "after"), [(1.0, 0.0), (0.0, 0.5), (1.0, 0.5), (0.0, 0.0)])
def test_the_state_can_be_adapted_when_clipping_is_switched(before, after):
    params = {"w": jnp.ones((2, 2))}
    states = [optimizers.build_optimizer(OptimizerConfig(clip=clip), 10, {}).init(params) for clip in (before, after)]
    adapted = optimizers.adapt_clipping(states[0], before, after)
    assert jax.tree.structure(adapted) == jax.tree.structure(states[1])


def test_the_warmup_of_schedule_free_may_be_a_fraction_of_the_steps():
    fraction = OptimizerConfig(name="schedule_free", schedule=ScheduleConfig(name="constant", warmup=0.5))
    steps = OptimizerConfig(name="schedule_free", schedule=ScheduleConfig(name="constant", warmup=5))
    params, gradient = {"w": jnp.ones(3)}, {"w": jnp.full(3, 0.5)}
    updates = []
    for config in (fraction, steps):
        optimizer = optimizers.build_optimizer(config, 10, {})
        updates.append(optimizer.update(gradient, optimizer.init(params), params)[0]["w"])
    np.testing.assert_array_equal(*updates)
