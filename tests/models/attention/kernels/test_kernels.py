"""All kernels compute the same attention."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.models.attention import kernels, masks
from lm_jax.models.attention.kernels.blockwise import blockwise
from lm_jax.models.attention.kernels.dense import dense
from lm_jax.models.attention.kernels.splash import splash
from lm_jax.models.attention.masks import Visibility, causal, full
from lm_jax.models.config import AttentionConfig


def random_arrays(length, *, keys=None, heads=4, groups=4, bias=False, segments=False):
    """Random queries, keys and values [2 heads length 8], and optionally a bias and segments."""
    rng = np.random.default_rng(length)
    normal = lambda *shape: jnp.float32(rng.standard_normal(shape))
    keys = keys or length
    ids = jnp.asarray(np.sort(rng.integers(1, 3, (2, length)), axis=1)) if segments else None
    return {
        "q": normal(2, heads, length, 8),
        "k": normal(2, groups, keys, 8),
        "v": normal(2, groups, keys, 8),
        "bias": normal(1, heads, length, keys) if bias else None,
        "segments": ids,
    }


def run_kernel(kernel, mask, arrays, block=4, **options):
    segments = arrays["segments"]
    visibility = Visibility(mask=mask, query_segments=segments, key_segments=segments)
    attend = jax.jit(functools.partial(kernel, block=block, **options))
    return attend(arrays["q"], arrays["k"], arrays["v"], visibility, bias=arrays["bias"])


def values_and_gradients(kernel, mask, arrays, **options):
    def total(arrays):
        mixed = run_kernel(kernel, mask, arrays, **options)
        return (mixed * jnp.cos(jnp.arange(mixed.size).reshape(mixed.shape))).sum(), mixed

    arrays = {name: array for name, array in arrays.items() if array is not None or name in ("bias", "segments")}
    (_, mixed), gradients = jax.jit(jax.value_and_grad(total, has_aux=True, allow_int=True))(arrays)
    return mixed, {name: leaf for name, leaf in gradients.items() if leaf is not None and name != "segments"}


@pytest.mark.parametrize(
    ("mask", "options"),
    [
        (causal, {"length": 8}),
        (causal, {"length": 13, "bias": True, "heads": 6, "groups": 2}),
        (causal, {"length": 3, "groups": 1}),
        (causal, {"length": 11, "segments": True}),
        (full, {"length": 9, "keys": 5, "bias": True}),
    ],
    ids=["even blocks", "ragged, bias, grouped", "less than a block", "segments", "cross"],
)
def test_blockwise_attention_is_dense_attention(mask, options):
    arrays = random_arrays(**options)
    expected, expected_gradients = values_and_gradients(dense, mask, arrays)
    mixed, gradients = values_and_gradients(blockwise, mask, arrays)
    # float32 sums of a dozen numbers in another order.
    np.testing.assert_allclose(mixed, expected, atol=2e-6)
    for name, gradient in expected_gradients.items():
        np.testing.assert_allclose(gradients[name], gradient, atol=5e-6, err_msg=name)


WINDOW = masks.of_config(AttentionConfig(window=3))
MASK_CASES = {
    "window": (WINDOW, {}),
    "both sides": (masks.of_config(AttentionConfig(mask="full", window=2)), {}),
    "strided": (masks.of_config(AttentionConfig(window=2, stride=3)), {}),
    "masks without a common key": (masks.of_config(AttentionConfig(window=1)) & masks.strided(5), {"softcap": 2.0}),
    "slopes": (causal, {"slopes": jnp.float32([0.5, 0.25, 0.125, 0.0625]), "softcap": 3.0}),
    "slopes on both sides of a window": (WINDOW, {"slopes": jnp.float32([0.5, 0.25, 0.125, 0.0625])}),
}


@pytest.mark.parametrize(("mask", "options"), MASK_CASES.values(), ids=MASK_CASES)
def test_skipped_blocks_change_nothing_under_any_mask(mask, options):
    arrays = random_arrays(14, groups=1, segments=True)
    # With explicit positions, no block is skipped.
    positions = jnp.arange(14)[None]
    segments = arrays["segments"]
    explicit = Visibility(
        mask=mask, query_positions=positions, key_positions=positions, query_segments=segments, key_segments=segments
    )
    expected = dense(arrays["q"], arrays["k"], arrays["v"], explicit, **options)
    np.testing.assert_allclose(run_kernel(blockwise, mask, arrays, **options), expected, atol=2e-6)
    unskipped = blockwise(arrays["q"], arrays["k"], arrays["v"], explicit, block=4, **options)
    np.testing.assert_allclose(unskipped, expected, atol=2e-6)


def test_windows_limit_the_keys_of_each_product():
    shapes = [jax.ShapeDtypeStruct((1, 2, 512, 16), jnp.float32)] * 3
    products = {}
    for name, mask in {"full": full, "causal": causal, "window": masks.of_config(AttentionConfig(window=32))}.items():
        text = str(jax.make_jaxpr(lambda *qkv, mask=mask: blockwise(*qkv, Visibility(mask=mask), block=32))(*shapes))
        # Each block has one product of queries and keys: [batch groups 32 keys].
        keys = [int(size) for size in re.findall(r"f32\[1,2,32,(\d+)\] = dot_general", text) if int(size) != 16]
        assert len(keys) == 16
        products[name] = sum(keys)
    assert products == {"full": 16 * 512, "causal": 32 * 16 * 17 // 2, "window": 32 + 15 * 63}


@pytest.mark.parametrize("options", [{"slopes": jnp.float32([0.5, 2.0]), "softcap": 1.5}, {}], ids=["capped", "plain"])
def test_scores_are_capped_then_penalised_by_distance(options):
    arrays = random_arrays(6, heads=2, groups=2)
    q, k, v = (np.float64(arrays[name]) for name in "qkv")
    scores, positions = q @ k.swapaxes(-1, -2), np.arange(6)
    if options:
        distance = abs(positions[:, None] - positions[None])
        scores = 1.5 * np.tanh(scores / 1.5) - np.array([0.5, 2.0])[None, :, None, None] * distance
    weights = np.exp(scores)
    mixed = dense(arrays["q"], arrays["k"], arrays["v"], Visibility(mask=full), **options)
    np.testing.assert_allclose(mixed, weights / weights.sum(-1, keepdims=True) @ v, atol=2e-6)


def test_dense_attention_is_its_formula():
    arrays = random_arrays(7, heads=4, groups=2, bias=True)
    q, k, v, bias = (np.float64(arrays[name]) for name in ("q", "k", "v", "bias"))
    k, v = (np.repeat(x, 2, axis=1) for x in (k, v))
    scores = np.where(np.tri(7, dtype=bool), q @ k.swapaxes(-1, -2) + bias, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True) @ v
    np.testing.assert_allclose(run_kernel(dense, causal, arrays), expected, atol=2e-6)


@pytest.mark.parametrize("kernel", [dense, blockwise])
def test_huge_scores_stay_finite(kernel):
    arrays = random_arrays(6)
    arrays["q"] = arrays["q"] * 1e4
    assert np.isfinite(run_kernel(kernel, causal, arrays)).all()


@pytest.mark.parametrize("kernel", [dense, blockwise])
def test_a_query_without_visible_keys_has_a_finite_output_and_gradient(kernel):
    arrays = random_arrays(6)
    arrays["segments"] = jnp.array([[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    leaves = jax.tree.leaves(values_and_gradients(kernel, causal, arrays))
    assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_bfloat16_attention_is_close_to_float32():
    arrays = random_arrays(16)
    exact = run_kernel(dense, causal, arrays)
    rough = run_kernel(dense, causal, jax.tree.map(jnp.bfloat16, arrays))
    assert rough.dtype == jnp.bfloat16
    # Rounded inputs and weights: a few units of 2^-8 on values of size 1.
    np.testing.assert_allclose(rough.astype(jnp.float32), exact, atol=0.05)


def test_dropped_probabilities_keep_the_expectation():
    rows, arrays = 2000, random_arrays(6)
    expected = run_kernel(dense, causal, arrays)[:1]
    q, k, v = (jnp.repeat(arrays[name][:1], rows, axis=0) for name in "qkv")
    draws = jax.jit(functools.partial(dense, dropout=0.3))(q, k, v, Visibility(mask=causal), key=jax.random.key(0))
    # Standard error of 2,000 draws of size 1: 0.022; 5 of them.
    np.testing.assert_allclose(draws.mean(0, keepdims=True), expected, atol=0.11)
    assert draws.std(0).max() > 0.1


OPTIONS = {"bias": None, "slopes": None, "softcap": None, "dropout": 0.0, "key": None}


def choose(name, visibility, *, tokens=64, block=16, **options):
    shape = jax.ShapeDtypeStruct((1, 2, tokens, 64), jnp.bfloat16)
    return kernels.choose(name, shape, shape, visibility, block=block, **{**OPTIONS, **options})


def test_auto_is_blockwise_where_blocks_can_be_skipped():
    indices = Visibility(mask=causal)
    explicit = Visibility(mask=causal, query_positions=jnp.zeros((1, 64), jnp.int32))
    assert choose("auto", indices) is blockwise
    assert choose("auto", indices, tokens=16) is dense
    assert choose("auto", explicit) is dense
    assert choose("auto", Visibility(mask=full)) is dense


def test_an_unknown_kernel_lists_the_known_ones():
    with pytest.raises(InputError, match="attention.kernel is 'dens'; expected one of dense, blockwise, splash, cudnn"):
        choose("dens", Visibility(mask=full))


def test_a_kernel_of_another_platform_is_refused():
    with pytest.raises(InputError, match="attention.kernel is 'splash', which does not serve the platform 'cpu'; set"):
        choose("splash", Visibility(mask=full))


def test_auto_is_the_kernel_of_the_platform_and_logs_once_what_it_does_not_serve(monkeypatch, caplog):
    monkeypatch.setitem(kernels.FUSED, "splash", ("cpu", *kernels.FUSED["splash"][1:]))
    visibility, drops = Visibility(mask=causal), {"dropout": 0.1, "key": jax.random.key(0)}
    assert choose("auto", visibility, tokens=256) is splash
    # Too few tokens for it, such as one that is decoded.
    assert choose("auto", visibility, tokens=64) is blockwise
    assert not caplog.messages
    for _ in range(2):
        assert choose("auto", visibility, tokens=256, **drops) is blockwise
    assert caplog.messages == [
        "attention is computed without the kernel 'splash', which does not serve dropout on probabilities (it "
        "serves attention.dropout_on=output)"
    ]
    with pytest.raises(InputError, match=r"which does not serve dropout .*=output\); set attention.kernel=auto"):
        choose("splash", visibility, **drops)
