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
from lm_jax.train import moments, optimizers
from lm_jax.train.gradients import accumulate
from lm_jax.train.optimizers import AdamWConfig, OptimizerConfig, ScheduleConfig, SGDConfig

NARROW = [name for name, format in moments.FORMATS.items() if format]
STEADY = ScheduleConfig(name="constant")


def moments_of(state, name):
    """The moments of a state of Adam in float32."""
    if not isinstance(state, moments.Narrowed):
        return state.mu["w"], state.nu["w"]
    decode = moments.FORMATS[name].decode
    return tuple(decode(getattr(state.inner, each)["w"], state.scales.get(f"{each}/w")) for each in ("mu", "nu"))


@pytest.mark.parametrize("name", NARROW)
def test_slow_moments_decay_as_those_in_float32(name):
    # The first value of each row keeps the scale of its second moments; all other gradients are 0 after one update.
    grads = jnp.asarray(np.exp(0.5 * np.random.default_rng(0).standard_normal((32, 256), np.float32))).at[:, 0].set(8)
    later = jnp.zeros_like(grads).at[:, 0].set(8 * 0.001**0.5)

    def trained(direction):
        update = lambda grads, state: direction.update({"w": grads}, state)[1]
        state = update(grads, direction.init({"w": grads}))
        return moments_of(jax.lax.fori_loop(0, 300, lambda _, state: update(later, state), state), name)

    adam = optax.scale_by_adam(0.999, 0.999)
    directions = adam, moments.narrowed(adam, moments.FORMATS[name])
    sums = [[moment[:, 1:].sum() for moment in jax.jit(trained, static_argnums=0)(each)] for each in directions]
    # Rounding errors of 8,000 values average out; the nearest codes would stay as they are, 1.35 times too large.
    np.testing.assert_allclose(sums[1], sums[0], rtol=0.02)


def test_second_moments_of_any_size_are_positive_and_within_a_code_of_what_they_are():
    shares = np.exp(np.linspace(np.log(1e-12), 0, 256)).astype(np.float32)
    x = jnp.asarray(np.stack([shares * 1e-8, shares * 1e5, np.zeros_like(shares)]))
    bits = jax.random.bits(jax.random.key(0), x.shape)
    for signed, levels in ((False, 255), (True, 127)):
        sign = jnp.where(jnp.arange(256) % 2 == 0, -1, 1)[None] if signed else jnp.ones((1, 1))
        codes, scale = moments.FORMATS["int8"].encode(x * sign, signed, bits)
        values = moments.FORMATS["int8"].decode(codes, scale) * sign
        np.testing.assert_array_equal(values[2], 0)
        np.testing.assert_allclose(values[:2, -1], x[:2, -1], rtol=1e-6)
        root = shares**0.25
        apart = ((np.floor(root * levels - 1e-3) + 1) / levels) ** 4 - (np.floor(root * levels + 1e-3) / levels) ** 4
        assert np.all(np.abs(values[:2] / x[:2, -1:] - shares) <= np.abs(apart) * 1.01)
    assert (moments.FORMATS["int8"].encode(x, False, bits)[0][:2] > 0).all()


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("signed", [False, True])
def test_rounding_keeps_the_mean_and_numbers_that_are_not_finite(name, signed):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((4, 32), np.float32))
    x = x if signed else x**2
    format = moments.FORMATS[name]
    draw = lambda key: format.decode(*format.encode(x, signed, jax.random.bits(key, x.shape)))
    values = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 4000))
    assert len(np.unique(values[:, 0, 0])) == 2 or x[0, 0] == jnp.abs(x[0]).max()
    # Codes are at most 0.031 of the largest value apart, so the standard error of a mean of 4,000 is at most 0.00025.
    np.testing.assert_allclose(values.mean(0), x, atol=1e-3 * float(jnp.abs(x).max()))
    bad = jnp.full((2, 32), jnp.array(0x7FFFFFFF, jnp.uint32).view(jnp.float32)).at[1].set(jnp.inf)
    codes = format.encode(bad, signed, jnp.full(bad.shape, 0xFFFFFFFF, jnp.uint32))
    assert not jnp.isfinite(format.decode(*codes)).any()


def built(name, format, **settings):
    config = OptimizerConfig(name=name, learning_rate=0.05, schedule=STEADY, moments=format, **settings)
    axes = {"layers": {"kernel": ("layers", "embed", "mlp"), "bias": ("layers", "mlp")}}
    return optimizers.build_optimizer(config, 10, axes)


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "sgd", "schedule_free"])
def test_states_take_the_bytes_of_their_formats_and_steps_follow_float32(name):
    draw = lambda seed: jax.tree.map(
        lambda shape: jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32)),
        {"layers": {"kernel": (2, 64, 256), "bias": (2, 256)}},
        is_leaf=lambda node: isinstance(node, tuple),
    )
    params, grads = draw(0), draw(1)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    each = {"adamw": 2, "schedule_free": 2, "muon": 1, "lion": 1, "sgd": 1}[name]
    updates = {}
    for format, size in (("float32", 4), ("bfloat16", 2), ("int8", 1)):
        optimizer = built(name, format)
        state = jax.jit(optimizer.init)(params)
        stored = size_bytes(state) - (4 * count if name == "schedule_free" else 0)
        # int8 has 4 bytes for a row of 256; the biases of muon have two moments.
        assert stored / count == pytest.approx(each * (size + (4 / 256 if format == "int8" else 0)), rel=0.02)
        step = jax.jit(optimizer.update)
        first, state = step(grads, state, params)
        updates[format] = first, step(grads, state, params)[0]
    for format in NARROW:
        # The first update is not rounded; codes of int8, which the second one reads, are 3 to 10 % apart.
        narrow, expected = named_leaves(updates[format]), jax.tree.leaves(updates["float32"])
        for (path, ours), theirs in zip(narrow, expected, strict=True):
            tolerance = 1e-6 if path.startswith("0/") else 0.05
            difference = jnp.linalg.norm((ours - theirs).ravel()) / jnp.linalg.norm(theirs.ravel())
            assert difference <= tolerance, (format, path, difference)


@pytest.mark.parametrize("format", NARROW)
def test_steps_are_those_of_one_device_and_resume_to_the_same_bits(format, tmp_path):
    setting = tiny.setting("causal")
    # A large epsilon, because Adam's first step is the sign of a gradient, even if this is only noise.
    config = OptimizerConfig(learning_rate=1e-3, schedule=STEADY, moments=format, adamw=AdamWConfig(epsilon=1e-3))
    optimizer = optimizers.build_optimizer(config, 10, setting.axes)
    case = laws.Case(setting.objective, setting.models, setting.batch, update=optimizer)
    step, now, batch = case.compiled(case.layout(data=1, fsdp=1, tensor=1))
    once, sums = step(now, batch)
    step, now, batch = case.compiled(case.layout(data=2, fsdp=2, tensor=2), accumulate(2))
    after, sums_after = step(now, batch)
    laws.assert_same(actual=(after, sums_after), expected=(once, sums))
    shards = lambda leaf: leaf.size // leaf.addressable_shards[0].data.size
    params = dict(named_leaves(after.params))
    for path, leaf in named_leaves(after.opt_state):
        if leaf.dtype.itemsize < 4:
            assert shards(leaf) == shards(params[path[path.index("model/") :]]), path
        if leaf.dtype.itemsize < 4 and path.endswith("kernel"):
            # Gradients differ by the order of their sums, so a few values round to the next code.
            ours, theirs = (np.asarray(each, np.float32) for each in (leaf, dict(named_leaves(once.opt_state))[path]))
            assert np.mean(ours != theirs) < 0.01, path
    laws.assert_resumes(step, batch, after, tmp_path)


def test_random_numbers_differ_between_updates_and_moments():
    adam = moments.narrowed(optax.scale_by_adam(), moments.FORMATS["bfloat16"])
    params = {name: jnp.full((4, 64), 1.23456) for name in ("a", "b")}
    state = adam.init(params)
    codes = [adam.update(params, state._replace(count=jnp.int32(count)))[1].inner for count in (0, 0, 1)]
    np.testing.assert_array_equal(codes[0].nu["a"], codes[1].nu["a"])
    assert (codes[0].nu["a"] != codes[2].nu["a"]).any() and (codes[0].nu["a"] != codes[0].nu["b"]).any()


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


def test_a_run_may_not_change_its_format():
    assert "config.moments" not in free_keys(OptimizerConfig)
