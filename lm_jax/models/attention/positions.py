"""Positions: sinusoids, T5's and DeBERTa's buckets, ALiBi's slopes. Rotary positions are in `rotary`."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lm_jax.models.attention.config import BucketConfig


def sinusoidal(positions: Int[Array, "batch length"], width: int) -> Float[Array, "batch length embed"]:
    """Sines then cosines of geometrically spaced frequencies.

    Reference: Vaswani et al. 2017, section 3.5, as in the authors' tensor2tensor code. The paper's formula interleaves
    sines and cosines, and its longest wavelength is a little shorter; weights are not interchangeable.
    """
    half = width // 2
    rates = jnp.exp(jnp.arange(half) * -(jnp.log(10000.0) / max(half - 1, 1)))
    angles = positions[..., None].astype(jnp.float32) * rates[None, None, :]
    table = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
    return jnp.pad(table, ((0, 0), (0, 0), (0, width - 2 * half)))


def sinusoidal_halves(positions: Int[Array, "batch length"], width: int) -> Float[Array, "batch length embed"]:
    """Sines then cosines of the paper's frequencies 10000 ** (-2 i / width) (Marian, Pegasus)."""
    sines, cosines = (width + 1) // 2, width // 2
    rates = 10000.0 ** (-2 * np.arange(sines) / width)
    angles = positions[..., None].astype(jnp.float32) * jnp.asarray(rates, jnp.float32)[None, None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)[..., :cosines]], -1)


def sinusoidal_interleaved(positions: Int[Array, "batch length"], width: int) -> Float[Array, "batch length embed"]:
    """Alternating sines and cosines of each frequency (Vaswani et al. 2017, section 3.5, as printed)."""
    halves, sines = sinusoidal_halves(positions, width), (width + 1) // 2
    order = np.argsort(np.r_[2 * np.arange(sines), 2 * np.arange(width // 2) + 1])
    return halves[..., order]


SINUSOIDS = {
    "sinusoidal": sinusoidal,
    "sinusoidal_interleaved": sinusoidal_interleaved,
    "sinusoidal_halves": sinusoidal_halves,
}


def slopes(heads: int, exponent: float = 8.0) -> np.ndarray:
    """ALiBi's slopes: the penalty of each head per position of distance.

    Geometric from 2 ** (-exponent / heads) to 2 ** -exponent where `heads` is a power of two; otherwise the slopes of
    the next lower power, then every other slope of the next higher, as in the released code.

    Reference: Press et al. 2022 (arXiv:2108.12409), section 3.
    """
    power = 1 << (heads.bit_length() - 1)
    geometric = lambda count: 2.0 ** (-exponent / count * np.arange(1, count + 1))
    return np.concatenate([geometric(power), geometric(2 * power)[::2]])[:heads].astype(np.float32)


def bucket(relative: Int[Array, "*shape"], config: BucketConfig, *, two_sided: bool) -> Int[Array, "*shape"]:
    """The bucket of a relative position (key minus query): exact when near, logarithmic when far.

    Keys after the query use half of the buckets if `two_sided` (encoders); otherwise they count as distance 0.

    Reference: Raffel et al. 2020 (arXiv:1910.10683), section 2.1.
    """
    buckets = config.buckets // 2 if two_sided else config.buckets
    offset = jnp.where(relative > 0, buckets, 0) if two_sided else jnp.zeros_like(relative)
    distance = jnp.abs(relative) if two_sided else jnp.maximum(-relative, 0)
    exact = buckets // 2
    far = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / jnp.log(config.max_distance / exact)
    far = exact + (far * (buckets - exact)).astype(jnp.int32)
    return offset + jnp.where(distance < exact, distance, jnp.minimum(far, buckets - 1))


def log_bucket(relative: Int[Array, "*shape"], buckets: int, max_distance: int) -> Int[Array, "*shape"]:
    """The signed bucket of a relative position: exact when near, logarithmic up to `max_distance`.

    `buckets` counts both signs. Distances of at least `max_distance` share one more bucket.

    Reference: the released code of DeBERTa-v2, whose models have 256 buckets up to 512.
    """
    exact, distances = buckets // 2, np.arange(1, max_distance + 1)
    # Logarithms are rounded to float32 as in the released code; exact ones give other buckets at powers.
    logarithm = lambda ratio: np.log(np.asarray(ratio, np.float32).astype(np.float64)).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = logarithm(distances / exact) / logarithm((max_distance - 1) / exact)
        far = np.ceil(share * np.float32(exact - 1)) + exact
        table = np.r_[0, np.where(distances <= exact, distances, far)].astype(np.int32)
    return jnp.sign(relative) * jnp.asarray(table)[jnp.minimum(jnp.abs(relative), max_distance)]
