"""The coordinate check of Yang et al. 2022 (appendix D.1): how far training moves activations at two widths.

A few updates on one batch move hidden activations and logits equally far at both widths under muP; under the standard
parametrisation, the same learning rate moves the wider model far more.
"""

import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from lm_jax.models import mup, transformer
from lm_jax.models.axes import by_path
from lm_jax.models.interface import Inputs
from lm_jax.models.model import from_module
from lm_jax.objectives.cross_entropy import cross_entropy
from lm_jax.train import optimizers, schedules

NARROW, WIDE, STEPS, DEPTH = 64, 512, 4, 2


def decoder(name, width):
    """A decoder whose head width grows with `width`; at NARROW both parametrisations have the same learning rates."""
    over = {"embed.width": width, "embed.max_length": 16, "stack.depth": DEPTH, "stack.scan": "never"}
    init = {"init.name": name, "init.base_width": NARROW, "init.scale_residual": False}
    return tiny.config("gpt2", over=over | init)


@functools.cache
def movement(name, width):
    """Mean absolute change of the residual stream after each layer and of the logits."""
    config = decoder(name, width)
    model = transformer.build_transformer(config)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 64, (4, 17)))
    inputs, targets = Inputs(tokens=tokens[:, :-1]), tokens[:, 1:]
    wrapped, rng = from_module(model), np.random.default_rng(1)
    shapes, axes = wrapped.shapes, wrapped.axes

    def draw(path, leaf):
        # Initialised as by `initializers`, but in numpy, which needs no compilation.
        kind = path.rpartition("/")[2]
        if kind in ("scale", "bias"):
            return jnp.full(leaf.shape, float(kind == "scale"))
        fan_in = 4 * width if "feedforward/out" in path else width
        # Small tables: logits start near 0 at either width, so that changes come from training.
        return jnp.float32(rng.standard_normal(leaf.shape) * (fan_in**-0.5 if kind == "kernel" else 0.1))

    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: draw("/".join(str(key.key) for key in path), leaf), shapes
    )
    settings = optimizers.OptimizerConfig(
        learning_rate=1e-2, clip=0.0, schedule=schedules.ScheduleConfig(name="constant", warmup=0)
    )
    adam = optimizers.build_optimizer(settings, STEPS, axes, mup.multipliers(config, axes))

    def loss(params):
        return cross_entropy(model.apply({"params": params}, inputs, logits=True).logits, targets).mean()

    def step(carry, _):
        params, state = carry
        updates, state = adam.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def activations(params):
        states = {"logits": model.apply({"params": params}, inputs, logits=True).logits}
        for depth in range(1, DEPTH + 1):
            stack = dataclasses.replace(config.stack, depth=depth)
            shallow = transformer.build_transformer(dataclasses.replace(config, stack=stack, final_norm=False))
            shallow_params = {**params, "stack": jax.tree.map(lambda leaf, depth=depth: leaf[:depth], params["stack"])}
            states[f"layer {depth}"] = shallow.apply({"params": shallow_params}, inputs).hidden
        return states

    @jax.jit
    def train(params):
        return jax.lax.scan(step, (params, adam.init(params)), length=STEPS)[0][0]

    before, after = activations(params), activations(train(params))
    return {name: float(jnp.abs(after[name] - before[name]).mean()) for name in before}


ACTIVATIONS = ["layer 1", "layer 2", "logits"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_under_mup_activations_move_as_much_at_every_width(activation):
    growth = movement("mup", WIDE)[activation] / movement("mup", NARROW)[activation]
    # Eight times the width: growth with width ** 0.5 would give 2.8, decay 1 / 2.8.
    assert 0.5 < growth < 2.0


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_under_the_standard_parametrisation_activations_move_more_in_a_wider_model(activation):
    growth = movement("fan_in", WIDE)[activation] / movement("fan_in", NARROW)[activation]
    assert growth > 2.8


def test_only_hidden_matrices_have_their_learning_rates_multiplied():
    config = decoder("mup", 512)
    axes = from_module(transformer.build_transformer(config)).axes
    factors = mup.multipliers(config, axes)
    assert set(factors.values()) == {1 / 8}
    # The readout of this model is its token table.
    assert set(factors) == {path for path in by_path(axes) if "kernel" in path}
    assert mup.multipliers(decoder("normal", 512), axes) == {}


@pytest.mark.parametrize("preset", ["albert", "bert", "mixtral", "t5"])
def test_hidden_matrices_are_those_of_layers_and_transforms_under_any_name(preset):
    config = tiny.config(preset, over={"init.name": "mup"})
    axes = from_module(transformer.build_transformer(config)).axes
    expected = {
        path for path in by_path(axes) if re.search(r"layers/.*kernel$|(head/transform|pair/pooler)/kernel$", path)
    }
    assert set(mup.multipliers(config, axes)) == expected
    renamed = {"else": {path.replace("kernel", "w"): names for path, names in by_path(axes).items()}}
    assert set(mup.multipliers(config, renamed)) == {f"else/{path.replace('kernel', 'w')}" for path in expected}


def test_mup_initialises_hidden_matrices_by_fan_in_and_readouts_independently_of_the_width():
    config = tiny.config("llama", over={"init.name": "mup", "init.base_width": 16, "stack.depth": 1})
    model = transformer.build_transformer(config)
    key = jax.random.key(0, impl="unsafe_rbg")
    params = jax.jit(lambda: model.init(key, Inputs(tokens=jnp.ones((1, 2), jnp.int32)), method="everything"))()[
        "params"
    ]
    spread = lambda box: float(box.value.std())
    layer = params["stack"]["layers"]
    assert spread(layer["attention"]["query"]["kernel"]) == pytest.approx(64**-0.5, rel=0.06)
    assert spread(layer["feedforward"]["in"]["kernel"]) == pytest.approx(64**-0.5, rel=0.06)
    assert spread(params["head"]["out"]["kernel"]) == pytest.approx(config.init.stddev, rel=0.06)
    # Logits are multiplied by base_width / width.
    logits = model.apply({"params": nn.unbox(params)}, jnp.ones((1, 1, 64)), method="readout")
    np.testing.assert_allclose(logits[0, 0], params["head"]["out"]["kernel"].value.sum(0) * 16 / 64, atol=1e-5)
