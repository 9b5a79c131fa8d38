"""Moments in 16 and 8 bits: their means, bytes and bits; steps with them are those of one device, and resume."""

import jax
import jax.numpy as jnp
import laws
import numpy as np
import optax
import pytest
import tiny

from lm_jax.core.config import InputError, free_keys
from lm_jax.core.trees import named_leaves, size_bytes
from lm_jax.parallel import mesh
from lm_jax.parallel.layout import Layout
from lm_jax.parallel.mesh import MeshConfig
from lm_jax.train import moments, optimizers, placing, state
from lm_jax.train.optimizers import AdamWConfig, OptimizerConfig, ScheduleConfig, SGDConfig

NARROW = {name: format for name, format in moments.FORMATS.items() if format}
STEADY = ScheduleConfig(name="constant")
IN = {"kernel": ("layers", "embed", "mlp"), "bias": ("layers", "mlp")}
AXES = {"model": {"layers": {"in": IN, "gate": {"kernel": IN["kernel"]}}}}
SHAPES = {"model": {"layers": {"in": {"kernel": (2, 8, 256), "bias": (2, 256)}, "gate": {"kernel": (2, 8, 256)}}}}


def random(seed):
    """Parameters of `SHAPES` with the same values in both matrices."""
    draw = lambda shape: jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))
    return jax.tree.map(draw, SHAPES, is_leaf=lambda node: isinstance(node, tuple))


def built(name, format, **settings):
    config = OptimizerConfig(name=name, learning_rate=0.05, schedule=STEADY, moments=format, **settings)
    return optimizers.build_optimizer(config, 10, AXES)


@pytest.mark.parametrize("name", NARROW)
def test_slow_moments_decay_as_those_in_float32(name):
    # The first value of each row keeps the scale of its second moments; all other gradients are 0 after one update.
    grads = jnp.asarray(np.exp(0.5 * np.random.default_rng(0).standard_normal((32, 256), np.float32))).at[:, 0].set(8)
    later = jnp.zeros_like(grads).at[:, 0].set(8 * 0.001**0.5)
    plain = optax.scale_by_adam(0.999, 0.999)
    narrow = moments.narrowed(plain, NARROW[name])

    def trained(*states):
        update = lambda w, states: (plain.update({"w": w}, states[0])[1], narrow.update({"w": w}, states[1])[1])
        expected, ours = jax.lax.fori_loop(0, 300, lambda _, states: update(later, states), update(grads, states))
        decode = lambda field: NARROW[name].decode(getattr(ours.inner, field)["w"], ours.scales.get(f"{field}/w"))
        return [moment[:, 1:].sum() for moment in (expected.mu["w"], expected.nu["w"], decode("mu"), decode("nu"))]

    sums = tiny.run_once(trained, plain.init({"w": grads}), narrow.init({"w": grads}))
    # Rounding errors of 8,000 values average out; the nearest codes would stay as they are, 1.35 times too large.
    np.testing.assert_allclose(sums[2:], sums[:2], rtol=0.02)


@pytest.mark.parametrize("signed", [False, True])
def test_codes_of_int8_are_neighbours_of_values_of_any_size_and_positive_if_these_are(signed):
    shares, levels = np.exp(np.linspace(np.log(1e-12), 0, 256)).astype(np.float32), 127 if signed else 255
    sign = np.where(np.arange(256) % 2 == 0, -1, 1) if signed else np.ones(256)
    x = np.stack([shares * 1e-8, shares * 1e5, np.zeros_like(shares)]) * sign.astype(np.float32)
    bits = np.random.default_rng(0).integers(0, 1 << 32, x.shape, np.uint32)

    def function(x, bits):
        codes, scale = NARROW["int8"].encode(x, signed, bits)
        return codes, NARROW["int8"].decode(codes, scale)

    codes, values = map(np.asarray, tiny.run_once(function, x, bits))
    np.testing.assert_allclose(values[:, -1], x[:, -1], rtol=1e-6)
    assert not codes[2].any() and np.all(signed | (codes[:2] > 0))
    root = levels * shares**0.25
    # Neither is off by more than float32's noise in the root.
    low, high = (np.sign(code) * np.abs(code / levels) ** 4 for code in (np.floor(root - 1e-3), np.floor(root + 1.001)))
    shares_of = values[:2] / np.abs(x[:2, -1:]) * sign
    assert np.all(shares_of >= np.maximum(low, 0) * 0.9999) and np.all(shares_of <= high * 1.0001)


def test_rounding_keeps_the_mean_and_numbers_that_are_not_finite():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 32), np.float32))
    bad = jnp.full((2, 32), jnp.array(0x7FFFFFFF, jnp.uint32).view(jnp.float32)).at[1].set(jnp.inf)
    cases = [(format, signed, x if signed else x**2) for format in NARROW.values() for signed in (False, True)]

    def function(bits):
        ones = jnp.full(bad.shape, 0xFFFFFFFF, jnp.uint32)
        draw = lambda format, signed, x, bits: format.decode(*format.encode(x, signed, bits))
        means = [jax.vmap(lambda each, case=case: draw(*case, each))(bits).mean(0) for case in cases]
        return means, [draw(format, signed, bad, ones) for format, signed, _ in cases]

    bits = np.random.default_rng(1).integers(0, 1 << 32, (4000, *x.shape), np.uint32)
    for (_, _, x), mean, values in zip(cases, *tiny.run_once(function, bits), strict=True):
        # Codes are at most 0.031 of the largest value apart, so the standard error of a mean is at most 0.00025.
        np.testing.assert_allclose(mean, x, atol=1e-3 * float(jnp.abs(x).max()))
        assert not jnp.isfinite(values).any()


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "sgd", "schedule_free"])
def test_states_take_the_bytes_of_their_formats(name):
    params = random(0)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    # AdamW updates the biases of muon; schedule_free has its fast iterate besides moments.
    values = {"adamw": 2 * count, "schedule_free": 2 * count, "muon": count + 2 * 256}.get(name, count)
    fixed = 4 * count if name == "schedule_free" else 0
    # int8 has a scale for a row of 256.
    for format, size in (("float32", 4), ("bfloat16", 2), ("int8", 1 + 4 / 256)):
        stored = size_bytes(jax.eval_shape(built(name, format).init, params)) - fixed
        # Counts and the like take a few bytes.
        assert values * size <= stored <= values * size + 64, format


def test_updates_are_those_of_float32_up_to_the_rounding_of_earlier_moments():
    params, grads = random(0), random(1)

    def two(grads, params):
        updates = {}
        for format in moments.FORMATS:
            # AdamW updates its biases.
            optimizer = built("muon", format)
            first, now = optimizer.update(grads, optimizer.init(params), params)
            updates[format] = first, optimizer.update(grads, now, params)[0]
        return updates

    updates = tiny.run_once(two, grads, params)
    for format in NARROW:
        for path, ours in named_leaves(updates[format]):
            theirs = dict(named_leaves(updates["float32"]))[path]
            difference = jnp.linalg.norm((ours - theirs).ravel()) / jnp.linalg.norm(theirs.ravel())
            # Codes of int8, which only the second update reads, are 3 to 10 % apart.
            assert 0.0005 < difference < 0.05 if path.startswith("1/") else difference < 1e-6, path


@pytest.mark.parametrize("format", NARROW)
def test_eight_devices_round_as_one_and_a_restored_state_continues_with_the_same_bits(format, tmp_path):
    optimizer, grads = built("adamw", format), random(1)
    now = state.create(random(0), optimizer, loss_scaled=False)

    def step(now, batch):
        updates, opt_state = optimizer.update(batch, now.opt_state, now.params)
        return now.replace(params=optax.apply_updates(now.params, updates), opt_state=opt_state), None

    results = []
    for sizes in ((1, 1, 1), (2, 2, 2)):
        devices = jax.devices()[: int(np.prod(sizes))]
        layout = Layout(mesh.make(MeshConfig(**dict(zip(("data", "fsdp", "tensor"), sizes, strict=True))), devices))
        shardings = layout.shardings(placing.state_axes(now, AXES), now)
        batch = jax.device_put(grads, layout.shardings(AXES, grads))
        program = layout.jit(step, out_shardings=(shardings, None))
        first = jax.device_put(now, shardings)
        program = program.lower(first, batch).compile(laws.QUICK)
        results.append([program(first, batch)[0]])
        results[-1].append(program(results[-1][0], batch)[0])
    for one, eight in zip(*results, strict=True):
        for (path, ours), theirs in zip(named_leaves(eight), jax.tree.leaves(one), strict=True):
            if ours.dtype.itemsize < 4:
                np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs), err_msg=path)
                assert ours.size // ours.addressable_shards[0].data.size == (4 if path.endswith("kernel") else 2), path
    laws.assert_resumes(program, batch, results[1][0], tmp_path)
    # Random numbers differ between moments and between updates: both matrices have the same gradients.
    second = optax.tree.get(results[0][0].opt_state, "nu")["model"]["layers"]
    assert (second["in"]["kernel"] != second["gate"]["kernel"]).any()
    moved = jax.device_put(now.replace(opt_state=_counted(now.opt_state, 5)), shardings)
    other = optax.tree.get(program(moved, batch)[0].opt_state, "nu")["model"]["layers"]
    assert np.any(np.asarray(second["in"]["kernel"]) != np.asarray(other["in"]["kernel"]))


def _counted(opt_state, count):
    """An optimizer state after another number of updates, as far as random numbers are concerned."""
    is_narrowed = lambda node: isinstance(node, moments.Narrowed)
    replaced = lambda node: node._replace(count=jnp.int32(count)) if is_narrowed(node) else node
    return jax.tree.map(replaced, opt_state, is_leaf=is_narrowed)


@pytest.mark.slow
@pytest.mark.parametrize("format", NARROW)
def test_the_laws_of_training_hold_with_narrow_moments(format, tmp_path):
    setting = tiny.setting("causal")
    # A large epsilon, because Adam's first step is the sign of a gradient, even if this is only noise.
    config = OptimizerConfig(learning_rate=1e-2, schedule=STEADY, moments=format, adamw=AdamWConfig(epsilon=1e-3))
    optimizer = optimizers.build_optimizer(config, 10, setting.axes)
    case = laws.Case(setting.objective, setting.models, setting.batch, update=optimizer)
    laws.check(case, tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "adafactor", "moments": "int8"}, "moments is 'int8', but optimizer adafactor factors its moments"),
        ({"name": "sgd", "moments": "bfloat16", "sgd": SGDConfig(momentum=0.0)}, "sgd has no moments without momentum"),
        ({"moments": "int4"}, "config.optimizer.moments is 'int4'; expected one of float32, bfloat16, int8"),
    ],
)
def test_formats_without_a_meaning_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        optimizers.build_optimizer(OptimizerConfig(schedule=STEADY, **settings), 10, {})


def test_parameters_without_rows_of_sixteen_stay_float32():
    optimizer = moments.narrowed(optax.scale_by_adam(), NARROW["int8"])
    now = optimizer.init({"kernel": jnp.zeros((4, 8)), "scale": jnp.zeros(())})
    assert not now.scales and {leaf.dtype.name for leaf in jax.tree.leaves(now.inner)} == {"float32", "int32"}


def test_a_run_may_not_change_its_format():
    assert "config.moments" not in free_keys(OptimizerConfig)
