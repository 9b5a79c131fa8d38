"""Cross-entropy equals JAX's log-softmax, at once and in chunks: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.core.sums import Sum
from lm_jax.models.config import EmbedConfig, ReadoutConfig, TransformerConfig
from lm_jax.models.model import Bound
from lm_jax.models.transformer import build_transformer
from lm_jax.objectives import cross_entropy as module
from lm_jax.objectives.base import accuracy, per_weight, weighted
from lm_jax.objectives.cross_entropy import cross_entropy, token_loss
from lm_jax.parallel import mesh
from lm_jax.parallel.layout import Layout
from lm_jax.parallel.mesh import MeshConfig


def by_log_softmax(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits.astype(jnp.float32)), labels[..., None], -1)[..., 0]


def random_logits(dtype):
    rng = np.random.default_rng(0)
    return jnp.asarray(8 * rng.standard_normal((3, 5, 40)), dtype), jnp.asarray(rng.integers(0, 40, (3, 5)), jnp.int32)


def values_and_gradients(function, logits, labels):
    cotangents = jnp.cos(jnp.arange(15.0)).reshape(3, 5)
    return function(logits, labels), jax.grad(lambda logits: (function(logits, labels) * cotangents).sum())(logits)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_cross_entropy_is_minus_the_log_softmax_of_the_label(dtype):
    logits, labels = random_logits(dtype)
    values, gradients = values_and_gradients(cross_entropy, logits, labels)
    expected, expected_gradients = values_and_gradients(by_log_softmax, logits, labels)
    assert values.dtype == jnp.float32 and gradients.dtype == dtype
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)
    # Both gradients are rounded once to the logits' dtype, so they differ by at most one unit.
    unit = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.float32(gradients), np.float32(expected_gradients), rtol=2 * unit, atol=1e-6)


def test_huge_logits_stay_finite():
    logits, labels = jnp.array([[1e30, -1e30, 0.0]]), jnp.array([1])
    values, gradients = jax.value_and_grad(lambda logits: cross_entropy(logits, labels).sum())(logits)
    assert np.isfinite(values) and np.isfinite(gradients).all()


def test_equal_logits_cost_the_logarithm_of_the_vocabulary():
    assert cross_entropy(jnp.zeros((1, 50)), jnp.array([3]))[0] == pytest.approx(np.log(50))


def test_positions_of_weight_zero_do_not_count():
    logits, labels = random_logits(jnp.float32)
    weights = jnp.zeros((3, 5)).at[0, 1].set(1.0)
    loss = weighted(cross_entropy(logits, labels), weights)
    assert isinstance(loss, Sum) and loss.weight == 1.0
    assert float(loss.total) == pytest.approx(float(by_log_softmax(logits, labels)[0, 1]))
    assert accuracy(logits, logits.argmax(-1).astype(jnp.int32), weights).mean() == 1.0


# Eight chunks; three chunks, the last of which is not full; one chunk.
@pytest.mark.parametrize("least", [3, 13, 512])
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 2e-6), (jnp.bfloat16, 2e-2), (jnp.float16, 2e-3)])
def test_the_loss_in_chunks_is_the_loss_of_all_logits(least, dtype, tolerance, monkeypatch):
    monkeypatch.setattr(module, "LEAST_TOKENS", least)
    rng = np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    embed, readout = EmbedConfig(vocab=50, width=8), ReadoutConfig(bias=True)
    transformer = build_transformer(TransformerConfig(embed=embed, readout=readout, dtype=jnp.dtype(dtype).name))
    params = {"token": {"embedding": draw(50, 8)}, "head": {"bias": draw(50)}, "stack": draw(3)}
    hidden, labels = draw(3, 11, 8).astype(dtype), jnp.asarray(rng.integers(0, 50, (3, 11)), jnp.int32)
    weights = jnp.asarray(rng.random((3, 11)) * (rng.random((3, 11)) < 0.7), jnp.float32)

    def at_once(params, hidden):
        logits = Bound(transformer, params).readout(hidden)
        return weighted(cross_entropy(logits, labels), weights), accuracy(logits, labels, weights)

    def in_chunks(params, hidden):
        return token_loss(Bound(transformer, params), hidden, labels, weights)

    # A large cotangent, as with loss scaling.
    gradients = [
        jax.jit(jax.grad(lambda *at, of=of: 1024.0 * of(*at)[0].total, argnums=(0, 1)))(params, hidden)
        for of in (in_chunks, at_once)
    ]
    for function in (in_chunks, jax.jit(in_chunks)):
        for actual, expected in zip(function(params, hidden), at_once(params, hidden), strict=True):
            np.testing.assert_allclose(actual.total, expected.total, rtol=max(tolerance / 100, 1e-6))
            np.testing.assert_allclose(actual.weight, expected.weight, rtol=1e-6)
    for actual, expected in zip(*map(jax.tree.leaves, gradients), strict=True):
        assert actual.dtype == expected.dtype and actual.shape == expected.shape
        scale = np.abs(np.float32(expected)).max()
        np.testing.assert_allclose(np.float32(actual), np.float32(expected), rtol=tolerance, atol=tolerance * scale)
    # The forward pass under differentiation gives the same sums.
    total, gradients = jax.value_and_grad(lambda params: in_chunks(params, hidden)[0].total)(params)
    np.testing.assert_allclose(total, in_chunks(params, hidden)[0].total, rtol=1e-6)
    assert not np.asarray(gradients["stack"]).any()


def test_each_device_computes_the_logits_of_its_rows_in_chunks_to_save_memory(monkeypatch):
    layout = Layout(mesh.make(MeshConfig(data=2, fsdp=2, tensor=2)))
    abstract = lambda *shape, dtype=jnp.float32, axes=("batch",): jax.ShapeDtypeStruct(
        shape, dtype, sharding=layout.sharding((*axes, *[None] * (len(shape) - len(axes))))
    )
    readout = ReadoutConfig(bias=True)
    transformer = build_transformer(TransformerConfig(embed=EmbedConfig(vocab=8192, width=16), readout=readout))
    params = {
        "token": {"embedding": abstract(8192, 16, axes=("vocab", "embed"))},
        "head": {"bias": abstract(8192, axes=("vocab",))},
    }
    tokens = abstract(8, 1024, 16), abstract(8, 1024, dtype=jnp.int32), abstract(8, 1024)
    sizes = {}
    for most in (1, 8):
        monkeypatch.setattr(module, "MOST_CHUNKS", most)
        loss = lambda params, *tokens: token_loss(Bound(transformer, params), *tokens)[0].total
        program = layout.jit(jax.grad(loss)).lower(params, *tokens).compile()
        sizes[most] = program.memory_analysis().temp_size_in_bytes
    # One chunk needs all logits of a device, 2048 tokens x 4096 ids, at once; eight need an eighth of them.
    assert sizes[8] < sizes[1] / 2


def test_zero_divided_by_zero_weight_is_zero():
    assert per_weight(jnp.float32(0), jnp.float32(0)) == 0
