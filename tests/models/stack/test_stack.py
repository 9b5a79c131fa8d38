"""Scanned, unrolled and rematerialised stacks compute the same values and gradients."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import tiny

from lm_jax import experiment, flags
from lm_jax.core.config import InputError
from lm_jax.decode.weights import unstacked
from lm_jax.models import transformer
from lm_jax.models.config import StackConfig
from lm_jax.models.interface import Inputs
from lm_jax.models.presets.gpt import gpt2
from lm_jax.models.stack import loops, segments

TOKENS = jnp.arange(1, 13).reshape(2, 6)
INPUTS = {
    "t5": Inputs(tokens=TOKENS, source=Inputs(tokens=TOKENS[:, :4] + 20, segments=jnp.array([[1] * 4, [1, 1, 1, 0]]))),
    "bert": Inputs(tokens=TOKENS),
}
OPTIONS = {"t5": {"version": "1.0"}, "bert": {}}


def run_training(preset, params=None, **settings):
    """Parameters, hidden states and gradients, with dropout."""
    inputs = INPUTS[preset]
    config = tiny.config(preset, over=tiny.everywhere(preset, **settings), **OPTIONS[preset])
    model = transformer.build_transformer(config)
    if params is None:
        _, params = tiny.build(config, inputs)
    # Random numbers of this kind compile in a tenth of the time.
    key = jax.random.key(0, impl="unsafe_rbg")

    def total(params):
        hidden = model.apply({"params": params}, inputs, train=True, rngs={"dropout": key}).hidden
        return (hidden * jnp.cos(jnp.arange(hidden.size).reshape(hidden.shape))).sum(), hidden

    gradients, hidden = jax.jit(jax.grad(total, has_aux=True))(params)
    return params, hidden, gradients


def assert_close(states, expected_states, gradients, expected_gradients):
    # The same sums in another order: float32 noise on values of size 3, on gradients relative to their size.
    np.testing.assert_allclose(states, expected_states, atol=1e-5)
    expected_leaves = jax.tree_util.tree_leaves_with_path(expected_gradients)
    for (path, expected), leaf in zip(expected_leaves, jax.tree.leaves(gradients), strict=True):
        size = float(jnp.abs(expected).max())
        np.testing.assert_allclose(leaf, expected, atol=2e-5 * max(size, 1), err_msg=jax.tree_util.keystr(path))


@pytest.fixture(scope="module")
def reference():
    """Parameters, hidden states and gradients of unrolled stacks, by preset."""
    return {preset: run_training(preset, scan="never", remat="none") for preset in INPUTS}


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        ("bert", {"scan": "always", "remat": "full"}),
        ("t5", {"scan": "always", "remat": "dots"}),
        ("bert", {"scan": "always", "remat": "offload"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value.values()),
)
def test_scans_and_rematerialisation_change_neither_values_nor_gradients(reference, preset, settings):
    params, expected_states, expected_gradients = reference[preset]
    _, states, gradients = run_training(preset, params, **settings)
    assert_close(states, expected_states, gradients, expected_gradients)


def test_every_parameter_has_a_gradient(reference):
    for _, _, gradients in reference.values():
        leaves = jax.tree_util.tree_leaves_with_path(gradients)
        without_gradient = [jax.tree_util.keystr(path) for path, leaf in leaves if not jnp.abs(leaf).max() > 0]
        # Heads do not affect hidden states; the bias of the keys shifts all scores of a query equally.
        assert {path for path in without_gradient if "head" not in path and "pair" not in path} <= {
            "['stack']['layers']['attention']['key']['bias']"
        }


SMALL = {"embed.width": 16, "stack.block.attention.heads": 2, "stack.block.feedforward.width": 32}
WINDOW = {"attention": {"window": 3}}
# Depths at which the last repetition of a pattern is incomplete.
PATTERNS = {
    "windows": {
        "stack.depth": 5,
        "stack.kinds": {"near": WINDOW},
        "stack.pattern": ("near", "block"),
        "stack.block.dropout": 0.1,
    },
    "other parameters": {
        "stack.depth": 5,
        "stack.kinds": {"first": {"attention_norm": False}, "wide": {"feedforward": {"width": 96}} | WINDOW},
        "stack.pattern": ("first", "wide", "block", "wide", "block"),
    },
    "shared": {"stack.depth": 3, "stack.share.groups": 2},
    "shared in pairs": {
        "stack.depth": 4,
        "stack.kinds": {"near": WINDOW},
        "stack.pattern": ("near", "block"),
        "stack.share.groups": 1,
        "stack.share.layers": 2,
    },
    "a bias per layer": {
        "stack.depth": 2,
        "stack.block.attention.position": "buckets",
        "stack.block.attention.buckets.shared": False,
    },
    "a shared bias": {
        "stack.depth": 3,
        "stack.block.attention.position": "buckets",
        "stack.kinds": {"near": WINDOW},
        "stack.pattern": ("near", "block"),
    },
}


def patterned(name, **settings):
    """A narrow decoder with the settings `PATTERNS[name]`."""
    return tiny.config("gpt2", over=SMALL | PATTERNS[name] | {f"stack.{key}": value for key, value in settings.items()})


@pytest.mark.parametrize("name", ["windows", "other parameters", "shared in pairs"])
def test_a_scanned_pattern_computes_what_its_unrolled_layers_do(name):
    inputs, key = INPUTS["bert"], jax.random.key(0, impl="unsafe_rbg")
    _, params = tiny.build(patterned(name), inputs)

    def outcome(**settings):
        model = transformer.build_transformer(patterned(name, **settings))

        def total(params):
            hidden = model.apply({"params": params}, inputs, train=True, rngs={"dropout": key}).hidden
            return (hidden * jnp.cos(jnp.arange(hidden.size).reshape(hidden.shape))).sum(), hidden

        return jax.jit(jax.grad(total, has_aux=True))(params)

    expected_gradients, expected_states = outcome(scan="never")
    gradients, states = outcome(scan="always", remat="full" if name == "windows" else "none")
    assert_close(states, expected_states, gradients, expected_gradients)


@pytest.mark.parametrize("name", ["shared", "a bias per layer", "a shared bias"])
def test_scanned_stacks_compute_what_unrolled_ones_do(name):
    inputs = INPUTS["bert"]
    _, params = tiny.build(patterned(name), inputs)
    models = [transformer.build_transformer(patterned(name, scan=scan)) for scan in ("always", "never")]
    hidden = jax.jit(lambda params: [model.apply({"params": params}, inputs).hidden for model in models])(params)
    np.testing.assert_allclose(*hidden, atol=1e-5)


@pytest.mark.parametrize("name", ["windows", "other parameters", "shared in pairs"])
def test_a_pattern_with_a_cache_computes_what_it_computes_without(name):
    inputs = INPUTS["bert"]
    for scan in ("always", "never"):
        model, params = tiny.build(patterned(name, scan=scan), inputs)
        apply = functools.partial(model.apply, {"params": unstacked(model, params)})

        @jax.jit
        def both(model=model, apply=apply):
            cache, states = model.empty_cache(2, 8), []
            for tokens in (TOKENS[:, :4], TOKENS[:, 4:5], TOKENS[:, 5:]):
                output = apply(Inputs(tokens=tokens), cache=cache)
                cache, states = output.cache, [*states, output.hidden]
            return jnp.concatenate(states, 1), apply(inputs).hidden

        # float32 sums also include the cache's empty slots, in another order.
        np.testing.assert_allclose(*both(), atol=2e-5)


def test_layers_of_one_shape_are_stored_together_and_others_under_their_kind():
    shapes = lambda name: tiny.shapes(transformer.build_transformer(patterned(name)), INPUTS["bert"])["stack"]
    width = lambda tree: tree["layers"]["feedforward"]["in"]["kernel"].shape
    assert set(shapes("windows")) == {"layers"}
    assert width(shapes("windows")) == (5, 16, 32)
    kinds = shapes("other parameters")
    assert set(kinds) == {"layers", "first", "wide"}
    assert [width(kinds), width(kinds["first"]), width(kinds["wide"])] == [(2, 16, 32), (1, 16, 32), (2, 16, 96)]
    assert "attention_norm" not in kinds["first"]["layers"]
    assert width(shapes("shared")) == (2, 16, 32)
    assert shapes("a bias per layer")["layers"]["relative"]["table"].shape == (2, 32, 2)


def test_shared_layers_are_layers_with_equal_parameters():
    inputs = INPUTS["bert"]
    model, params = tiny.build(patterned("shared"), inputs)
    alone = transformer.build_transformer(tiny.config("gpt2", over={**SMALL, "stack.depth": 3}))
    spread = {**params, "stack": jax.tree.map(lambda leaf: leaf[np.array([0, 0, 1])], params["stack"])}
    run = lambda model: jax.jit(lambda params: model.apply({"params": params}, inputs).hidden)
    np.testing.assert_allclose(run(model)(params), run(alone)(spread), atol=1e-5)


def test_settings_of_the_block_reach_every_kind():
    config = patterned("windows", **{"block.attention.heads": 4}).stack
    assert [block.attention.heads for block in config.blocks] == [4, 4]
    assert [block.attention.window for block in config.blocks] == [3, None]


def test_parameters_of_all_layers_have_a_leading_axis_named_layers():
    kernel = tiny.boxed(transformer.build_transformer(tiny.config("bert")), INPUTS["bert"])["stack"]["layers"][
        "attention"
    ]["query"]["kernel"]
    assert kernel.names == ("layers", "embed", "heads", "kv")
    assert kernel.value.shape == (2, 64, 2, 32)


def test_unstacked_layers_are_slices_of_the_stacked_ones():
    tree = {"kernel": jnp.arange(6.0).reshape(3, 2)}
    layers = loops.unstack(tree, 3)
    np.testing.assert_array_equal(np.stack([layer["kernel"] for layer in layers]), tree["kernel"])


def test_auto_scans_deep_stacks():
    assert loops.scanned(StackConfig(depth=24))
    assert not loops.scanned(StackConfig(depth=2))


@pytest.mark.parametrize(("field", "value"), [("scan", "sometimes"), ("remat", "some"), ("depth", 0)])
def test_an_unknown_setting_is_refused(field, value):
    with pytest.raises(InputError, match=rf"stack\.{field} is '?{value}"):
        config = tiny.config("bert", over={f"stack.{field}": value})
        tiny.boxed(transformer.build_transformer(config), INPUTS["bert"])


def test_a_pattern_can_be_overridden_on_the_command_line_and_survives_json():
    recipe = ml_collections.ConfigDict({"model": gpt2("tiny")})
    recipe.model.stack.kinds = {"near": WINDOW}
    recipe.model.stack.pattern = ("near", "block")
    words = ("kinds.near.attention.window=9", "block.attention.heads=4", "pattern=block,near", "depth=3")
    tree, changed = flags.configure(recipe, [f"--config.model.stack.{word}" for word in words])
    config = experiment.parse(tree)
    assert [layer.kind for layer in segments.layers(config.model.stack)] == ["block", "near", "block"]
    assert [block.attention.window for block in config.model.stack.blocks] == [None, 9]
    assert [block.attention.heads for block in config.model.stack.blocks] == [4, 4]
    assert "config.model.stack.kinds.near.attention.window: 3 -> 9" in changed
    assert experiment.parse(experiment.as_json(config)) == config


def test_what_is_kept_is_not_computed_again():
    inputs = Inputs(tokens=jnp.ones((2, 16), jnp.int32))

    def flops(remat):
        over = {"stack.scan": "always", "stack.remat": remat}
        module = transformer.build_transformer(tiny.config("gpt2", over=over))
        gradient = jax.grad(lambda params: module.apply({"params": params}, inputs).hidden.sum())
        return jax.jit(gradient).lower(tiny.shapes(module, inputs)).cost_analysis()["flops"]

    counts = [flops(remat) for remat in ("none", "minimal", "save_attention", "query,key,value", "save_qkv", "full")]
    assert counts == sorted(counts) and len(set(counts)) == len(counts) - 1, "one choice is given by its names"
