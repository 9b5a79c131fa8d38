"""Placements of norms against their formulas."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.core.trees import map_named
from lm_jax.models.attention.masks import Visibility
from lm_jax.models.attention.multi_head import Attention
from lm_jax.models.config import AttentionConfig, BlockConfig, FeedForwardConfig, InitConfig, NormConfig
from lm_jax.models.feedforward.dense import FeedForward
from lm_jax.models.norms import Norm
from lm_jax.models.stack.block import PLACEMENTS, Block, Context

CONFIG = BlockConfig(
    attention=AttentionConfig(heads=2),
    feedforward=FeedForwardConfig(width=24, activation="squared_relu"),
    norm=NormConfig(name="rms", offset=True),
)
INIT = InitConfig(name="fan_in")
CONTEXT = Context(visibility=Visibility())


def draw(module, *args):
    """Random parameters of a module, none of them 0 or 1."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *args))["params"]
    unboxed = jax.tree.map(lambda box: box.value, shapes, is_leaf=lambda leaf: hasattr(leaf, "names"))
    return map_named(lambda path, leaf: jnp.float32(0.3 * rng.standard_normal(leaf.shape)), unboxed)


def formulas(x, params):
    """The residual stream after a layer of each placement, computed from attention, feed-forward layer and norms."""
    attend = Attention(CONFIG.attention, INIT, jnp.float32, 1.0)
    feed = FeedForward(CONFIG.feedforward, INIT, jnp.float32, 1.0)
    norm = lambda name, y: Norm(CONFIG.norm).apply({"params": params[name]}, y)
    a = lambda y: attend.apply({"params": params["attention"]}, y, Visibility())[0]
    f = lambda y: feed.apply({"params": params["feedforward"]}, y)
    before, after = "attention_norm", "feedforward_norm"
    pre = x + a(norm(before, x))
    post = norm(before, x + a(x))
    stream = norm(before, x) + a(norm(before, x))
    sandwich = x + norm(f"{before}_after", a(norm(before, x)))
    return {
        "pre": pre + f(norm(after, pre)),
        "post": norm(after, post + f(post)),
        "sandwich": sandwich + norm(f"{after}_after", f(norm(after, sandwich))),
        "stream": norm(after, stream) + f(norm(after, stream)),
        "parallel": x + a(norm(before, x)) + f(norm(before, x)),
        "parallel_two": x + a(norm(before, x)) + f(norm(after, x)),
        "no attention norm": x + a(x) + f(norm(after, x + a(x))),
    }


@pytest.fixture(scope="module")
def outcomes():
    x = jnp.float32(np.random.default_rng(1).standard_normal((2, 5, 8)))
    blocks = {
        name: Block(dataclasses.replace(CONFIG, norm_placement=name), INIT, jnp.float32, 1.0) for name in PLACEMENTS
    }
    blocks["no attention norm"] = Block(dataclasses.replace(CONFIG, attention_norm=False), INIT, jnp.float32, 1.0)
    # The parameters of `sandwich` include those of all other placements.
    params = draw(blocks["sandwich"], x, CONTEXT)
    streams = lambda params: {name: block.apply({"params": params}, x, CONTEXT)[0] for name, block in blocks.items()}
    return jax.jit(lambda params: (streams(params), formulas(x, params)))(params)


@pytest.mark.parametrize("name", [*PLACEMENTS, "no attention norm"])
def test_each_placement_is_its_formula(outcomes, name):
    streams, expected = outcomes
    np.testing.assert_allclose(streams[name], expected[name], atol=1e-5)
    # No two placements are the same.
    assert all(np.abs(streams[name] - other).max() > 0.01 for key, other in streams.items() if key != name)


def test_a_placement_has_the_norms_that_it_uses():
    names = lambda **over: set(draw(Block(dataclasses.replace(CONFIG, **over), INIT, jnp.float32, 1.0), x, CONTEXT))
    x = jnp.ones((1, 2, 8))
    branches = {"attention", "feedforward"}
    assert names(norm_placement="parallel") == branches | {"attention_norm"}
    assert names(norm_placement="parallel_two") == branches | {"attention_norm", "feedforward_norm"}
    assert names(norm_placement="pre", attention_norm=False) == branches | {"feedforward_norm"}
