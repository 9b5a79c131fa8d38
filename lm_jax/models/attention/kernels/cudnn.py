"""Attention by cuDNN on NVIDIA GPUs, which keeps the scores on the chip (flash attention, Dao et al. 2022)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lm_jax.models.attention.kernels.devices import over_devices
from lm_jax.models.attention.masks import Visibility
from lm_jax.models.remat import named

# Older GPUs take no wider heads.
MAX_WIDTH = 128


def cudnn(
    q: Float[Array, "batch heads query kv"],
    k: Float[Array, "batch groups key kv"],
    v: Float[Array, "batch groups key kv"],
    visibility: Visibility,
    *,
    bias: Float[Array, "#batch heads query key"] | None = None,
    **_: Any,
) -> Float[Array, "batch heads query kv"]:
    """Computes `dense` where `refusal` is None, which excludes the other arguments of a kernel."""
    return named(over_devices(_attend, q, k, v, visibility, bias), "attended")


def refusal(
    q: Any,
    k: Any,
    visibility: Visibility,
    *,
    slopes: Any = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    key: Any = None,
    **_: Any,
) -> str | None:
    """What `cudnn` does not serve among its arguments, of which q and k may be shapes; None: it serves all."""
    reasons = {
        # jax compares the versions of cuDNN and of the GPU in the process that traces.
        "a program for GPUs that is made without one": jax.default_backend() != "gpu",
        f"{q.dtype} (it serves config.model.dtype=bfloat16)": q.dtype.name not in ("bfloat16", "float16"),
        "ALiBi's penalty on distance (attention.position)": slopes is not None,
        "soft-capped scores (attention.softcap)": softcap is not None,
        "dropout on probabilities (it serves attention.dropout_on=output)": dropout > 0 and key is not None,
        f"heads of width {q.shape[3]}, which must be a multiple of 8 up to {MAX_WIDTH}": bool(q.shape[3] % 8)
        or q.shape[3] > MAX_WIDTH,
        f"rows of {q.shape[2]} and {k.shape[2]} tokens, which must be even": bool(q.shape[2] % 2 or k.shape[2] % 2),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def _attend(q: Array, k: Array, v: Array, visibility: Visibility, bias: Array | None = None) -> Array:
    options = mask_options(visibility, q.shape[2], k.shape[2])
    if bias is not None:
        options["bias"] = bias.astype(q.dtype)
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    return jax.nn.dot_product_attention(q, k, v, scale=1.0, implementation="cudnn", **options).transpose(0, 2, 1, 3)


def mask_options(visibility: Visibility, queries: int, keys: int) -> dict[str, Any]:
    """The arguments of `jax.nn.dot_product_attention` that allow what `visibility` allows.

    A causal mask over indices lets the kernel skip blocks, and so does a window where there is nothing else. All else
    is an array [batch or 1, 1, query, key], which the heads share.
    """
    before, after = visibility.mask.band or (None, None)
    # A query of the stream may see its own token, or not, apart from the mask.
    plain = visibility.self_visible == 0 and visibility.targets is None and visibility.shift(queries, keys) == 0
    causal = visibility.mask.band is not None and after == 0 and plain and queries == keys
    if visibility.mask.allow is None or causal:
        others = (visibility.key_segments, visibility.unseen, visibility.key_ranks)
        if all(each is None for each in others):
            # cuDNN's window has two sides, of which the right one is the causal mask.
            return {"is_causal": causal, **({} if before is None else {"local_window_size": (before, 0)})}
    allowed = visibility.allowed(slice(0, queries), slice(0, keys))
    if allowed is not None:
        allowed = jnp.broadcast_to(allowed, (allowed.shape[0], queries, keys))[:, None]
    return {"is_causal": causal, "mask": allowed}
