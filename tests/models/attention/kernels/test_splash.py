"""The TPU kernel computes dense attention, which its interpreter shows on a CPU."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from lm_jax.models.attention import kernels, masks
from lm_jax.models.attention.kernels.dense import dense
from lm_jax.models.attention.kernels.splash import refusal, splash
from lm_jax.models.attention.kernels.splash_masks import IndexMask
from lm_jax.models.attention.masks import Visibility, causal, full
from lm_jax.models.config import AttentionConfig, EmbedConfig, StackConfig, TransformerConfig
from lm_jax.models.interface import Inputs
from lm_jax.models.transformer import build_transformer
from lm_jax.parallel.layout import Layout

WINDOW = masks.of_config(AttentionConfig(window=20))
AROUND = masks.of_config(AttentionConfig(mask="full", window=20))
STRIDED = masks.of_config(AttentionConfig(window=20, stride=7))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A mask and the sizes of an attention; `segments`: packed texts before padding, `padding`: padded keys alone."""

    mask: masks.Mask
    queries: int = 140
    keys: int = 0
    heads: int = 2
    groups: int = 2
    segments: bool = False
    padding: bool = False
    softcap: float | None = None


def arrays(case):
    """Random queries, keys, values, cotangents [2 heads length 8], and the visibility of a case."""
    rng, keys = np.random.default_rng(0), case.keys or case.queries
    normal = lambda heads, length: jnp.float32(rng.standard_normal((2, heads, length, 8)))
    q, cotangent = normal(case.heads, case.queries), normal(case.heads, case.queries)
    k, v = normal(case.groups, keys), normal(case.groups, keys)
    ids = np.sort(rng.integers(1, 4, (2, keys)), axis=1) if case.segments else np.ones((2, keys), int)
    ids = jnp.asarray(np.where(np.arange(keys) < keys - np.array([[9], [30]]), ids, 0))
    visibility = Visibility(
        mask=case.mask,
        query_segments=ids if case.segments else None,
        key_segments=ids if case.segments or case.padding else None,
    )
    if case.segments:
        # What padding attends to is of no use to anyone.
        cotangent = cotangent * (ids > 0)[:, None, :, None]
    if keys > case.queries and case.mask is not full:
        at = jnp.arange(case.queries)[None]
        earlier = jnp.arange(case.queries - keys, case.queries)[None]
        visibility = visibility.replace(query_positions=at, key_positions=earlier, consecutive=True)
    return q, k, v, cotangent, visibility


def output_and_gradients(kernel, case):
    q, k, v, cotangent, visibility = arrays(case)

    def total(q, k, v):
        mixed = kernel(q, k, v, visibility, softcap=case.softcap)
        return (mixed * cotangent).sum(), mixed * (cotangent != 0)

    (_, mixed), gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(q, k, v)
    return {"output": mixed, **dict(zip("qkv", gradients, strict=True))}


CASES = {
    "causal, packed": Case(mask=causal, segments=True),
    "full, padded, grouped, capped": Case(mask=full, padding=True, heads=4, softcap=2.0),
}
MORE_CASES = {
    "causal": Case(mask=causal),
    "full": Case(mask=full),
    "one block": Case(mask=causal, queries=5),
    "window over several blocks, one key head": Case(mask=WINDOW, queries=520, heads=2, groups=1),
    "both sides, packed": Case(mask=AROUND, segments=True),
    "strided": Case(mask=STRIDED),
    "prefix of no row": Case(mask=masks.prefix, softcap=3.0),
    "cross": Case(mask=full, keys=70, padding=True),
    "cross without padding": Case(mask=full, queries=70, keys=270),
    "window after a past": Case(mask=WINDOW, keys=420),
}


@pytest.mark.parametrize(
    "case",
    [
        *itertools.starmap(lambda name, case: pytest.param(case, id=name), CASES.items()),
        *(pytest.param(case, id=name, marks=pytest.mark.slow) for name, case in MORE_CASES.items()),
    ],
)
def test_splash_attention_is_dense_attention(case):
    expected, computed = output_and_gradients(dense, case), output_and_gradients(splash, case)
    for name, array in expected.items():
        # float32 sums of hundreds of numbers of size 1 in another order.
        np.testing.assert_allclose(computed[name], array, atol=1e-5, err_msg=name)


def test_devices_compute_their_own_rows_and_heads():
    case = Case(mask=causal, heads=4, groups=2, segments=True)
    q, k, v, _, visibility = arrays(case)
    layout = Layout(Mesh(np.array(jax.devices()[:4]).reshape(2, 1, 2), ("data", "fsdp", "tensor")))
    mapped = layout.jit(splash)(q, k, v, visibility)
    real = (visibility.query_segments > 0)[:, None, :, None]
    np.testing.assert_allclose(mapped * real, dense(q, k, v, visibility) * real, atol=1e-5)
    assert mapped.sharding.shard_shape(mapped.shape) == (1, 2, *mapped.shape[2:])


def test_index_masks_are_masks_over_positions():
    positions = masks.TokenPositions(np.arange(3, 9)[:, None]), masks.TokenPositions(np.arange(12)[None])
    for mask in (causal, full, WINDOW, AROUND, STRIDED, masks.prefix):
        expected = np.ones((6, 12), bool) if mask.allow is None else np.array(mask.allow(*positions))
        expected = np.broadcast_to(expected & (np.arange(12) < 11), (6, 12))
        index_mask = IndexMask(mask, (6, 12), 3, 11)
        np.testing.assert_array_equal(index_mask[:, :], expected)
        np.testing.assert_array_equal(index_mask[2:4, 5:9], expected[2:4, 5:9])
        assert hash(index_mask) == hash(IndexMask(mask, (6, 12), 3, 11))


SHAPE = jax.ShapeDtypeStruct((1, 2, 256, 64), jnp.bfloat16)
ONES = jnp.ones((1, 256), jnp.int32)
REFUSED = {
    "a bias": ({}, {"bias": jnp.zeros((1, 2, 256, 256))}),
    "ALiBi": ({}, {"slopes": jnp.ones(2)}),
    "serves attention.dropout_on=output": ({}, {"dropout": 0.1, "key": jax.random.key(0)}),
    "inputs.unseen": ({"unseen": jnp.zeros((1, 256, 256), bool)}, {}),
    "inputs.ranks": ({"key_ranks": ONES, "query_ranks": ONES}, {}),
    "inputs.targets": ({"targets": ONES[:, :4]}, {}),
    "learned tokens": ({"shared": 3, "key_segments": ONES}, {}),
    "inputs.prefix": ({"prefix": jnp.ones(1, jnp.int32)}, {}),
    "inputs.consecutive": ({"query_positions": ONES, "key_positions": ONES}, {}),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_splash_does_not_serve_is_named(reason):
    fields, options = REFUSED[reason]
    assert reason in str(refusal(SHAPE, SHAPE, Visibility(mask=causal, **fields), **options))


def test_old_tpus_do_not_serve_it(monkeypatch):
    monkeypatch.setattr("lm_jax.models.attention.kernels.splash.device_kind", lambda: "TPU v3")
    assert refusal(SHAPE, SHAPE, Visibility(mask=causal)) == "the device 'TPU v3'"


def test_splash_serves_what_it_can():
    consecutive = Visibility(mask=causal, query_positions=ONES, key_positions=ONES, consecutive=True)
    for visibility in (Visibility(mask=causal), Visibility(query_positions=ONES), consecutive):
        assert refusal(SHAPE, SHAPE, visibility, softcap=2.0, dropout=0.1) is None


def packed_inputs():
    """Two rows of two texts and padding, whose positions restart."""
    segments = jnp.array([[1] * 5 + [2] * 9 + [0] * 2, [1] * 8 + [2] * 8])
    positions = jnp.array([[*range(5), *range(9), 0, 0], [*range(8), *range(8)]])
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 50, (2, 16)))
    return Inputs(tokens=tokens, segments=segments, positions=positions, consecutive=True)


def decoder(**attention):
    """A decoder of one layer and width 16."""
    config = TransformerConfig(embed=EmbedConfig(vocab=50, width=16), stack=StackConfig(depth=1))
    block = dataclasses.replace(
        config.stack.block, attention=AttentionConfig(heads=2, position="rotary", window=6, **attention)
    )
    return build_transformer(dataclasses.replace(config, stack=StackConfig(depth=1, block=block)))


def test_a_decoder_of_packed_rows_computes_the_same_with_splash(monkeypatch):
    monkeypatch.setitem(kernels.FUSED, "splash", ("cpu", 128, refusal))
    inputs = packed_inputs()
    init = functools.partial(decoder().init, method="everything")
    shapes, rng = jax.eval_shape(init, jax.random.key(0), inputs)["params"], np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.float32(0.3 * rng.standard_normal(leaf.shape)), shapes)
    hidden = {
        kernel: jax.jit(decoder(kernel=kernel).apply)({"params": params}, inputs).hidden
        for kernel in ("dense", "splash")
    }
    real = (inputs.segments > 0)[..., None]
    np.testing.assert_allclose(hidden["splash"] * real, hidden["dense"] * real, atol=1e-5)
