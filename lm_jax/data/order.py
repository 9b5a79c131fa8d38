"""The order of rows and the randomness of each, as pure functions of integers.

The order is a keyed permutation of our own (a Feistel network, walked until it falls inside the range; Black and
Rogaway 2002), so that it needs no memory and never changes with a library's release.
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Int, Integer, UInt32, UInt64

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_ROUNDS = 6


def mix(value: int) -> int:
    """64 well-mixed bits of an integer (SplitMix64's finaliser; Steele et al. 2014)."""
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


# Every row of a batch asks for the key of its epoch.
@functools.lru_cache(maxsize=1 << 10)
def key(*numbers: int) -> int:
    """A 64-bit key of a few integers, such as (seed, epoch); their order matters."""
    state = 0
    for number in numbers:
        state = mix(state ^ mix(number & _MASK))
    return state


def keys(*numbers: Integer[np.ndarray, " #keys"]) -> UInt32[np.ndarray, "keys 2"]:
    """`key` of many integers at once, as its high and its low word."""
    state = np.zeros(1, np.uint64)
    for number in numbers:
        state = _mixed(state ^ _mixed(number.astype(np.uint64)))
    return np.stack([state >> np.uint64(32), state & np.uint64(0xFFFFFFFF)], axis=1).astype(np.uint32)


def permute(index: Int[np.ndarray, " *shape"] | int, count: int, key: int) -> Int[np.ndarray, " *shape"]:
    """Where a keyed permutation of 0..count-1 sends each index.

    Args:
      index: numbers below `count`.
      count: the size of the range, at least 1.
      key: 64 bits that choose the permutation.

    Returns:
      int64 array of the shape of `index`.
    """
    index = np.asarray(index, np.int64)
    if index.size and not (0 <= int(index.min()) and int(index.max()) < count):
        raise ValueError(f"indices {int(index.min())}..{int(index.max())} do not lie in 0..{count - 1}")
    if count == 1:
        return np.zeros_like(index)
    values = _encrypt(index.astype(np.uint64).reshape(-1), count, key)
    # The network permutes the next power of two: what falls outside walks on. Each index ends inside, because its
    # cycle comes back to itself at the latest.
    outside = values >= np.uint64(count)
    while outside.any():
        values[outside] = _encrypt(values[outside], count, key)
        outside = values >= np.uint64(count)
    return values.astype(np.int64).reshape(index.shape)


def _encrypt(values: UInt64[np.ndarray, " n"], count: int, key: int) -> UInt64[np.ndarray, " n"]:
    bits = max(2, (count - 1).bit_length())
    low_bits, high_bits = np.uint64(bits // 2), np.uint64(bits - bits // 2)
    one = np.uint64(1)
    low_mask, high_mask = (one << low_bits) - one, (one << high_bits) - one
    low, high = values & low_mask, values >> low_bits
    for number in range(_ROUNDS):
        low ^= _scramble(high, mix(key + 2 * number)) & low_mask
        high ^= _scramble(low, mix(key + 2 * number + 1)) & high_mask
    return (high << low_bits) | low


def _mixed(values: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """`mix` of an array."""
    return _scramble(values + np.uint64(_GOLDEN), 0)


def _scramble(values: UInt64[np.ndarray, " n"], key: int) -> UInt64[np.ndarray, " n"]:
    """SplitMix64's finaliser on an array."""
    values = values ^ np.uint64(key)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def generator(seed: int, epoch: int, row: int) -> np.random.Generator:
    """The random generator of one row in one epoch (Philox, a counter-based generator; Salmon et al. 2011)."""
    return np.random.Generator(np.random.Philox(key=np.array([key(seed, epoch), row], np.uint64)))
