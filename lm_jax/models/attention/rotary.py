"""Rotary positions (Su et al. 2021, arXiv:2104.09864) and their scaling to longer inputs."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lm_jax.core.config import InputError, lookup
from lm_jax.models.attention.config import RotaryConfig, ScalingConfig

# Radians per position of each pair of features, highest frequency first.
Rates = np.ndarray | Float[Array, " pairs"]


def rotary(
    x: Float[Array, "batch heads length kv"], positions: Int[Array, "#batch length"], config: RotaryConfig
) -> Float[Array, "batch heads length kv"]:
    """Rotates pairs of features of the first `fraction` of each head by angles proportional to the position.

    Reference: eq. 34. Pairs are (i, i + half), as in LLaMA's released weights, or neighbours (GPT-J).
    """
    size = int(x.shape[-1] * config.fraction) // 2 * 2
    rates, magnitude = frequencies(config, size, positions)
    # float32: at position 10^5 a bfloat16 angle is off by hundreds of radians.
    angles = positions[:, None, :, None].astype(jnp.float32) * jnp.asarray(rates, jnp.float32)[None, None, None, :]
    sine, cosine = jnp.sin(angles), jnp.cos(angles)
    if magnitude != 1.0:
        sine, cosine = sine * magnitude, cosine * magnitude
    sine, cosine = sine.astype(x.dtype), cosine.astype(x.dtype)
    if config.interleaved:
        rotated, rest = x[..., :size], x[..., size:]
        pairs = rotated.reshape(*rotated.shape[:-1], size // 2, 2)
        first, second = pairs[..., 0], pairs[..., 1]
        rotated = jnp.stack([first * cosine - second * sine, second * cosine + first * sine], -1)
        return jnp.concatenate([rotated.reshape(*x.shape[:-1], size), rest], -1)
    first, second, rest = jnp.split(x, [size // 2, size], axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine, rest], -1)


def frequencies(config: RotaryConfig, size: int, positions: Int[Array, "#batch length"]) -> tuple[Rates, float]:
    """Returns the rates of `size` rotated features and the factor on sines and cosines.

    `dynamic` and `longrope` scaling depend on the largest position.
    """
    return lookup(SCALINGS, config.scaling.name, "attention.rotary.scaling.name")(config, size, positions)


def _rates(theta: float, size: int) -> np.ndarray:
    return theta ** (-np.arange(0, size, 2, dtype=np.float64) / size)


def _none(config: RotaryConfig, size: int, positions: Array) -> tuple[Rates, float]:
    # jax's power, not numpy's: existing checkpoints were trained with its float32 rounding.
    return config.theta ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size), 1.0


def _linear(config: RotaryConfig, size: int, positions: Array) -> tuple[Rates, float]:
    """Position interpolation (Chen et al. 2023, arXiv:2306.15595, eq. 4)."""
    return _rates(config.theta, size) / config.scaling.factor, 1.0


def _ntk(config: RotaryConfig, size: int, positions: Array) -> tuple[Rates, float]:
    """NTK-aware theta (Peng et al. 2023, arXiv:2309.00071, definition 1)."""
    return _rates(config.theta * config.scaling.factor ** (size / (size - 2)), size), 1.0


def _dynamic(config: RotaryConfig, size: int, positions: Array) -> tuple[Rates, float]:
    """NTK-aware theta that grows with inputs longer than `length` (Peng et al. 2023, arXiv:2309.00071, appendix)."""
    factor, length = config.scaling.factor, _length(config.scaling)
    longest = jnp.maximum(positions.max() + 1, length).astype(jnp.float32)
    theta = config.theta * (factor * longest / length - (factor - 1)) ** (size / (size - 2))
    return theta ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size), 1.0


def _llama3(config: RotaryConfig, size: int, positions: Array) -> tuple[Rates, float]:
    """Scales long wavelengths, keeps short ones, interpolates between them (Dubey et al. 2024, released code)."""
    scaling, rates = config.scaling, _rates(config.theta, size)
    periods = _length(scaling) * rates / (2 * math.pi)
    unscaled = np.clip((periods - scaling.low) / (scaling.high - scaling.low), 0, 1)
    return rates * (unscaled + (1 - unscaled) / scaling.factor), 1.0


def _yarn(config: RotaryConfig, size: int, positions: Array) -> tuple[Rates, float]:
    """Interpolation by parts and a temperature (Peng et al. 2023, arXiv:2309.00071, section 3.2 and eq. 22)."""
    scaling, rates = config.scaling, _rates(config.theta, size)
    # The feature that completes `turns` rotations within the length.
    feature = lambda turns: size * math.log(_length(scaling) / (turns * 2 * math.pi)) / (2 * math.log(config.theta))
    low, high = feature(scaling.fast), feature(scaling.slow)
    low, high = (math.floor(low), math.ceil(high)) if scaling.whole else (low, high)
    low, high = max(low, 0), min(high, size - 1)
    scaled = np.clip((np.arange(size // 2) - low) / max(high - low, 1e-3), 0, 1)
    magnitude = 0.1 * math.log(scaling.factor) + 1 if scaling.magnitude is None else scaling.magnitude
    return rates * (1 - scaled + scaled / scaling.factor), magnitude


def _longrope(config: RotaryConfig, size: int, positions: Array) -> tuple[Rates, float]:
    """One scaling factor per pair of features, found by search (Ding et al. 2024, arXiv:2402.13753)."""
    scaling, length, rates = config.scaling, _length(config.scaling), _rates(config.theta, size)
    for name, factors in (("near", scaling.near), ("far", scaling.far)):
        if len(factors) != size // 2:
            raise InputError(
                f"attention.rotary.scaling.{name} has {len(factors)} factors; expected {size // 2}, one for each pair"
            )
    growth = 1 + math.log(scaling.factor) / math.log(length) if scaling.factor > 1 else 1.0
    magnitude = math.sqrt(growth) if scaling.magnitude is None else scaling.magnitude
    near, far = (jnp.asarray(rates / np.array(factors), jnp.float32) for factors in (scaling.near, scaling.far))
    return jnp.where(positions.max() + 1 > length, far, near), magnitude


def _length(scaling: ScalingConfig) -> int:
    if not scaling.length:
        raise InputError(
            f"attention.rotary.scaling.length is {scaling.length}; {scaling.name} needs the length of pretraining"
        )
    return scaling.length


SCALINGS: dict[str, Callable[[RotaryConfig, int, Array], tuple[Rates, float]]] = {
    "none": _none,
    "linear": _linear,
    "ntk": _ntk,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
