"""Attention by JAX's kernel for TPUs, which keeps the scores on the chip and skips blocks that a static mask rules out.

Flash attention: Dao et al. 2022, arXiv:2205.14135.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm_jax.models.attention.kernels.devices import over_devices
from lm_jax.models.attention.masks import Visibility
from lm_jax.parallel.layout import device_kind, platform

# The kernel's blocks are multiples of a vector's lanes.
LANES = 128
# Sizes of a block of queries or of keys, of sequences that are longer than the first.
BLOCKS = (512, 384, 256)
# TPUs that do not multiply 16-bit numbers as the kernel does.
OLD = ("TPU v2", "TPU v3")


def splash(
    q: Float[Array, "batch heads query kv"],
    k: Float[Array, "batch groups key kv"],
    v: Float[Array, "batch groups key kv"],
    visibility: Visibility,
    *,
    softcap: float | None = None,
    **_: Any,
) -> Float[Array, "batch heads query kv"]:
    """Computes `dense` where `refusal` is None, which excludes the other arguments of a kernel.

    On a CPU it interprets the kernel, which is slow. Padding attends to padding; in `dense` it gets the mean of all
    values.
    """
    return over_devices(functools.partial(_attend, softcap=softcap), q, k, v, visibility)


def refusal(
    q: Any,
    k: Any,
    visibility: Visibility,
    *,
    bias: Any = None,
    slopes: Any = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    key: Any = None,
) -> str | None:
    """What `splash` does not serve among its arguments, of which q and k may be shapes; None: it serves all."""
    reasons = {
        f"the device {device_kind()!r}": device_kind() in OLD,
        "a bias on the scores (attention.position)": bias is not None,
        "ALiBi's penalty on distance (attention.position)": slopes is not None,
        "dropout on probabilities (it serves attention.dropout_on=output)": dropout > 0 and key is not None,
        "pairs of tokens that must not attend (inputs.unseen)": visibility.unseen is not None
        or visibility.self_visible > 0,
        "a factorisation order (inputs.ranks)": visibility.key_ranks is not None,
        "a query stream (inputs.targets)": visibility.targets is not None,
        "learned tokens before the segments of a row": bool(visibility.shared) and visibility.key_segments is not None,
        "a prefix of each row's own length (inputs.prefix)": visibility.prefix is not None,
        "positions that need not follow the keys (a cache, or inputs.positions without inputs.consecutive)": (
            visibility.mask.allow is not None and visibility.shift(q.shape[2], k.shape[2]) is None
        ),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def _attend(q: Array, k: Array, v: Array, visibility: Visibility, *, softcap: float | None) -> Array:
    heads, queries, keys = q.shape[1], q.shape[2], k.shape[2]
    blocks = _block(queries), _block(keys)
    q, (k, v) = _padded(q, blocks[0], 2), (_padded(x, blocks[1], 2) for x in (k, v))
    segments = _segments(visibility, q.shape[0], queries, keys)
    # Padding of the kernel is of segment 0 too; without segments, the mask excludes it.
    real = k.shape[2] if segments is not None else keys
    shift = visibility.shift(queries, keys) or 0
    kernel = _kernel(visibility, heads, (q.shape[2], k.shape[2]), blocks, shift, real, softcap)
    if segments is None:
        return jax.vmap(kernel)(q, k, v)[:, :, :queries]
    segments = tuple(_padded(ids, block, 1) for ids, block in zip(segments, blocks, strict=True))
    return jax.vmap(kernel)(q, k, v, segments)[:, :, :queries]


def _kernel(
    visibility: Visibility,
    heads: int,
    sizes: tuple[int, int],
    blocks: tuple[int, int],
    shift: int,
    keys: int,
    softcap: float | None,
) -> Any:
    """The function of one row's queries, keys, values and pair of segments."""
    # Imported here, because it takes a fifth of a second, which only a TPU needs.
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        BlockSizes,
        FullMask,
        MultiHeadMask,
        SegmentIds,
        make_splash_mha,
    )

    from lm_jax.models.attention.kernels.splash_masks import IndexMask

    everywhere = visibility.mask.allow is None and keys == sizes[1]
    mask = FullMask(sizes) if everywhere else IndexMask(visibility.mask, sizes, shift, keys)
    block_q, block_kv = blocks
    block_sizes = BlockSizes(
        block_q=block_q,
        block_kv=block_kv,
        block_q_dq=block_q,
        block_kv_dq=block_kv,
        block_q_dkv=block_q,
        block_kv_dkv=block_kv,
    )
    kernel = make_splash_mha(
        mask=MultiHeadMask([mask] * heads),
        block_sizes=block_sizes,
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=softcap,
        # Also of the softmax's normaliser, without which the backward pass would compute the output again.
        residual_checkpoint_name="attended",
        interpret=platform() == "cpu",
    )
    return lambda q, k, v, ids=None: kernel(q, k, v, None if ids is None else SegmentIds(*ids))


def _segments(
    visibility: Visibility, batch: int, queries: int, keys: int
) -> tuple[Int[Array, "batch query"], Int[Array, "batch key"]] | None:
    """Segments of queries and keys, equal where a query may attend to a key; None: everywhere."""
    ids = visibility.key_segments
    if ids is None:
        return None
    if visibility.query_segments is None:
        return jnp.ones((batch, queries), jnp.int32), (jnp.asarray(ids) > 0).astype(jnp.int32)
    return jnp.asarray(visibility.query_segments).astype(jnp.int32), jnp.asarray(ids).astype(jnp.int32)


def _block(length: int) -> int:
    """The size of a block: of all tokens if they are few, else the one that needs the least padding."""
    if length <= BLOCKS[0]:
        return length + -length % LANES
    return min(BLOCKS, key=lambda block: -length % block)


def _padded(x: Array, block: int, axis: int) -> Array:
    """The array with zeros behind it, up to a multiple of `block`."""
    more = -x.shape[axis] % block
    return jnp.pad(x, [(0, more if at == axis else 0) for at in range(x.ndim)]) if more else x
