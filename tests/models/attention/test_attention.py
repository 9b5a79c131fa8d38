"""Attention against its formula in float64, with many settings at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lm_jax.core.config import InputError
from lm_jax.core.trees import map_named
from lm_jax.models import transformer
from lm_jax.models.attention.masks import Visibility
from lm_jax.models.attention.multi_head import Attention
from lm_jax.models.config import AttentionConfig, InitConfig, NormConfig
from lm_jax.models.interface import Inputs
from lm_jax.parallel import mesh
from lm_jax.parallel.layout import Layout
from lm_jax.parallel.mesh import MeshConfig

INPUTS = Inputs(tokens=jnp.arange(1, 17).reshape(2, 8))


def attention(**settings):
    """A module with random parameters, none of them 0 or 1, and its input."""
    module = Attention(AttentionConfig(heads=4, **settings), InitConfig(), jnp.float32, 1.0, NormConfig(epsilon=1e-6))
    x, rng = jnp.float32(np.random.default_rng(1).standard_normal((2, 7, 16))), np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, Visibility()))["params"]
    unboxed = jax.tree.map(lambda box: box.value, shapes, is_leaf=lambda leaf: hasattr(leaf, "names"))
    return module, map_named(lambda path, leaf: jnp.float32(0.5 * rng.standard_normal(leaf.shape)), unboxed), x


def test_one_key_head_normed_clipped_capped_windowed_attention_is_its_formula():
    module, params, x = attention(
        kv_heads=1, qk_norm=True, clip=1.0, softcap=2.0, window=3, position="rotary", scale=0.7
    )
    wide = jax.tree.map(np.float64, params)

    def heads(name):
        y = np.einsum("bld,dhk->bhlk", np.float64(x), wide[name]["kernel"]) + wide[name]["bias"][None, :, None]
        y = np.clip(y, -1.0, 1.0)
        if name != "value":
            y = y - y.mean(-1, keepdims=True)
            y = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6)
            y = y * wide[f"{name}_norm"]["scale"] + wide[f"{name}_norm"]["bias"]
            turn = np.exp(1j * np.arange(7)[:, None] * 10000.0 ** (-np.arange(2) / 2))
            rotated = (y[..., :2] + 1j * y[..., 2:]) * turn
            y = np.concatenate([rotated.real, rotated.imag], -1)
        return y

    q, k, v = heads("query"), heads("key"), heads("value")
    scores = 2.0 * np.tanh(0.7 * q @ k.swapaxes(-1, -2) / 2.0)
    i, j = np.arange(7)[:, None], np.arange(7)[None]
    weights = np.exp(np.where((j <= i) & (j > i - 3), scores, -np.inf))
    mixed = weights / weights.sum(-1, keepdims=True) @ v
    expected = np.einsum("bhlk,hkd->bld", mixed, wide["out"]["kernel"]) + wide["out"]["bias"]
    outputs = jax.jit(lambda params: module.apply({"params": params}, x, Visibility())[0])(params)
    np.testing.assert_allclose(outputs, expected, atol=2e-5)


def test_one_key_head_is_all_heads_with_the_same_keys():
    single, params, x = attention(kv_heads=1)
    all_alike, _, _ = attention()
    repeat = lambda path, leaf: jnp.repeat(leaf, 4, axis=-2) if path.startswith(("key", "value")) else leaf
    run = lambda module, params: module.apply({"params": params}, x, Visibility())[0]
    outputs, expected = jax.jit(lambda params: (run(single, params), run(all_alike, map_named(repeat, params))))(params)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_one_key_head_is_replicated_and_two_cannot_be_sharded_over_four_devices():
    layout = Layout(mesh.make(MeshConfig(data=2, tensor=4)))

    def shardings(kv_heads):
        boxes = tiny.boxed(transformer.build_transformer(config(kv_heads)), INPUTS)
        is_box = lambda leaf: hasattr(leaf, "names")
        axes = jax.tree.map(lambda box: box.names, boxes, is_leaf=is_box)
        return layout.shardings(axes, jax.tree.map(lambda box: box.value, boxes, is_leaf=is_box))

    config = lambda kv_heads: tiny.config("llama", over={"stack.block.attention.kv_heads": kv_heads, "stack.depth": 1})
    kernels = shardings(1)["stack"]["layers"]["attention"]
    assert "tensor" in kernels["query"]["kernel"].spec
    assert "tensor" not in kernels["key"]["kernel"].spec
    with pytest.raises(InputError, match="axis groups of size 2 is not divisible by the 4 devices of mesh axis tensor"):
        shardings(2)


def test_a_replicated_key_head_computes_what_one_device_does():
    over = {"stack.block.attention.kv_heads": 1, "stack.depth": 1}
    model, params = tiny.build(tiny.config("llama", over=over), INPUTS)
    layout = Layout(mesh.make(MeshConfig(data=2, tensor=4)))
    hidden = lambda params: model.apply({"params": params}, INPUTS).hidden
    np.testing.assert_allclose(layout.jit(hidden)(params), jax.jit(hidden)(params), atol=1e-5)


def test_dropout_on_the_output_drops_attended_values():
    module, params, x = attention(dropout=0.5, dropout_on="output")
    # The output projection copies the attended values of the heads.
    params = {**params, "out": {"kernel": jnp.eye(16).reshape(4, 4, 16), "bias": jnp.zeros(16)}}
    call = lambda train: module.apply(
        {"params": params}, x, Visibility(), train=train, rngs={"dropout": jax.random.key(0)}
    )
    kept, dropped = call(False)[0], call(True)[0]
    used = dropped != 0
    np.testing.assert_allclose(dropped[used], 2 * kept[used], rtol=1e-5)
    assert 0.35 < used.mean() < 0.65
    plain = attention(dropout=0.5)[0].apply({"params": params}, x, Visibility())[0]
    np.testing.assert_array_equal(kept, plain)


def test_dropout_on_something_else_is_refused():
    with pytest.raises(InputError, match="attention.dropout_on is 'values'; expected one of probabilities, output"):
        AttentionConfig(dropout_on="values")
