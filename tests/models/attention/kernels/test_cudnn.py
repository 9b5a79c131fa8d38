"""What cuDNN is asked for is dense attention, which jax's plain implementation shows on a CPU."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.models.attention import masks
from lm_jax.models.attention.kernels import cudnn
from lm_jax.models.attention.kernels.dense import dense
from lm_jax.models.attention.masks import Visibility, causal, full
from lm_jax.models.config import AttentionConfig

SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 2, 2, 2, 0, 0], [1] * 10])
WINDOW = masks.of_config(AttentionConfig(window=3))
VISIBILITIES = {
    "causal": Visibility(mask=causal),
    "full": Visibility(mask=full),
    "window": Visibility(mask=WINDOW),
    "packed": Visibility(mask=causal, query_segments=SEGMENTS, key_segments=SEGMENTS),
    "packed window": Visibility(mask=WINDOW, query_segments=SEGMENTS, key_segments=SEGMENTS),
    "padded": Visibility(mask=full, key_segments=(SEGMENTS > 0).astype(jnp.int32)),
    "prefix": Visibility(mask=masks.prefix, prefix=jnp.array([4, 2])),
    "both sides": Visibility(mask=masks.of_config(AttentionConfig(mask="full", window=3))),
    "unseen": Visibility(mask=causal, unseen=jnp.eye(10, k=-1, dtype=bool)[None], self_visible=10),
    "own positions": Visibility(mask=causal, query_positions=SEGMENTS, key_positions=SEGMENTS),
}


@pytest.mark.parametrize("name", VISIBILITIES)
def test_its_arguments_allow_what_is_visible(name, monkeypatch):
    visibility, rng = VISIBILITIES[name], np.random.default_rng(0)
    q, k, v = (jnp.float32(rng.standard_normal((2, heads, 10, 8))) for heads in (4, 2, 2))
    plain = jax.nn.dot_product_attention
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda *args, implementation, **options: plain(*args, **options)
    )
    bias = jnp.float32(rng.standard_normal((1, 4, 10, 10)))
    mixed, expected = (kernel(q, k, v, visibility, bias=bias) for kernel in (cudnn.cudnn, dense))
    real = 1 if visibility.query_segments is None else (visibility.query_segments > 0)[:, None, :, None]
    # float32 sums of ten numbers in another order.
    np.testing.assert_allclose(mixed * real, expected * real, atol=2e-6)


def test_causal_masks_and_windows_over_indices_need_no_array():
    options = lambda name: cudnn.mask_options(VISIBILITIES[name], 10, 10)
    assert options("causal") == {"is_causal": True}
    assert options("full") == {"is_causal": False}
    assert options("window") == {"is_causal": True, "local_window_size": (2, 0)}
    assert options("packed")["is_causal"]
    assert options("packed")["mask"].shape == (2, 1, 10, 10)
    assert not options("own positions")["is_causal"]
    # Its causal mask begins at the first key, even if queries have keys before theirs.
    assert not cudnn.mask_options(VISIBILITIES["causal"], 10, 12)["is_causal"]


def test_what_cudnn_does_not_serve_is_named(monkeypatch):
    shape = lambda width=64, tokens=256, dtype=jnp.bfloat16: jax.ShapeDtypeStruct((1, 2, tokens, width), dtype)
    refusal = functools.partial(cudnn.refusal, visibility=Visibility(mask=causal))
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert "made without one" in str(refusal(shape(), shape()))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert refusal(shape(), shape()) is None
    assert "serves config.model.dtype=bfloat16" in str(refusal(shape(dtype=jnp.float32), shape(dtype=jnp.float32)))
    assert "heads of width 20" in str(refusal(shape(20), shape(20)))
    assert "rows of 255 and 256 tokens" in str(refusal(shape(tokens=255), shape()))
    assert refusal(shape(), shape(), bias=jnp.zeros((1, 2, 256, 256))) is None
    assert "ALiBi" in str(refusal(shape(), shape(), slopes=jnp.ones(2)))
    assert "soft-capped" in str(refusal(shape(), shape(), softcap=2.0))
    assert "dropout" in str(refusal(shape(), shape(), dropout=0.1, key=jax.random.key(0)))


@pytest.mark.skipif("cuda" not in os.environ["JAX_PLATFORMS"], reason="needs a GPU")
@pytest.mark.parametrize("bias", [None, "shared", "own"])
@pytest.mark.parametrize("tokens", [114, 256])
@pytest.mark.parametrize("name", ["causal", "full", "window", "packed", "packed window", "padded", "prefix"])
def test_on_a_gpu_it_is_dense_attention_with_its_gradients(name, tokens, bias):
    rng, mask = np.random.default_rng(0), VISIBILITIES[name].mask
    ids = jnp.asarray(np.where(np.arange(tokens) < tokens - np.array([[9], [50]]), 1 + np.arange(tokens) // 40, 0))
    fields = {
        "packed": {"query_segments": ids, "key_segments": ids},
        "padded": {"key_segments": (ids > 0).astype(jnp.int32)},
        "prefix": {"prefix": jnp.array([40, 100])},
    }
    mask = masks.of_config(AttentionConfig(window=30)) if "window" in name else mask
    visibility = Visibility(mask=mask, **fields.get(name.split()[0], {}))
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.bfloat16)
    q, cotangent = normal(2, 4, tokens, 64) / 8, normal(2, 4, tokens, 64)
    arrays = [q, normal(2, 2, tokens, 64), normal(2, 2, tokens, 64)]
    arrays += [] if bias is None else [normal(1 if bias == "shared" else 2, 4, tokens, tokens)]
    if name.startswith("packed"):
        # What padding attends to is of no use to anyone.
        cotangent = cotangent * (ids > 0)[:, None, :, None]

    @functools.partial(jax.jit, static_argnums=0)
    def run(kernel, *arrays):
        attend = lambda q, k, v, *bias: kernel(q, k, v, visibility, bias=bias[0] if bias else None)
        mixed, back = jax.vjp(attend, *arrays)
        return mixed * (cotangent != 0), *back(cotangent.astype(mixed.dtype))

    expected = run(dense, *(x.astype(jnp.float32) for x in arrays))
    for ours, theirs, right in zip(run(cudnn.cudnn, *arrays), run(dense, *arrays), expected, strict=True):
        error = lambda x, right=right: float(jnp.linalg.norm(x - right) / jnp.linalg.norm(right))
        # Not further from float32 than twice what dense attention in bfloat16 is.
        assert error(ours) < 2 * error(theirs) + 1e-3, (error(ours), error(theirs))
