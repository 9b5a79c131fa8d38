"""Where a token stands: sinusoids, rotary angles, T5's buckets. Learned positions are a table in `embed`."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm_jax.models.config import BucketConfig, RotaryConfig


def sinusoidal(positions: Int[Array, "batch length"], width: int) -> Float[Array, "batch length embed"]:
    """Sines then cosines of geometrically spaced frequencies.

    Reference: Vaswani et al. 2017, section 3.5, as in the authors' tensor2tensor code. The paper's formula interleaves
    sines and cosines, and its slowest wave is a little shorter: weights of the one do not fit the other.
    """
    half = width // 2
    rates = jnp.exp(jnp.arange(half) * -(jnp.log(10000.0) / max(half - 1, 1)))
    angles = positions[..., None].astype(jnp.float32) * rates[None, None, :]
    table = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
    return jnp.pad(table, ((0, 0), (0, 0), (0, width - 2 * half)))


def rotary(
    x: Float[Array, "batch heads length kv"], positions: Int[Array, "#batch length"], config: RotaryConfig
) -> Float[Array, "batch heads length kv"]:
    """Rotates pairs (i, i + half) of the first `fraction` of each head by an angle proportional to the position.

    Reference: Su et al. 2021 (arXiv:2104.09864), eq. 34, with the pairs of features taken from the two halves of a
    head as LLaMA's released weights have them.
    """
    size = int(x.shape[-1] * config.fraction) // 2 * 2
    rates = config.theta ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    # float32: at position 10^5 a bfloat16 angle is off by hundreds of radians.
    angles = positions[:, None, :, None].astype(jnp.float32) * rates[None, None, None, :]
    sine, cosine = jnp.sin(angles).astype(x.dtype), jnp.cos(angles).astype(x.dtype)
    first, second, rest = jnp.split(x, [size // 2, size], axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine, rest], -1)


def bucket(relative: Int[Array, "*shape"], config: BucketConfig, *, two_sided: bool) -> Int[Array, "*shape"]:
    """The bucket of a relative position (key minus query): exact when near, logarithmic when far.

    Args:
      relative: key position minus query position.
      config: how many buckets, and from which distance on all share the last.
      two_sided: half of the buckets for keys after the query (encoders); otherwise those count as distance 0.

    Reference: Raffel et al. 2020 (arXiv:1910.10683), section 2.1.
    """
    buckets = config.buckets // 2 if two_sided else config.buckets
    offset = jnp.where(relative > 0, buckets, 0) if two_sided else jnp.zeros_like(relative)
    distance = jnp.abs(relative) if two_sided else jnp.maximum(-relative, 0)
    exact = buckets // 2
    far = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / jnp.log(config.max_distance / exact)
    far = exact + (far * (buckets - exact)).astype(jnp.int32)
    return offset + jnp.where(distance < exact, distance, jnp.minimum(far, buckets - 1))
