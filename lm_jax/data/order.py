"""The shuffled order of rows and the random generator of each row, as pure functions of integers.

The order is a keyed permutation (a Feistel network with cycle walking; Black and Rogaway 2002): it needs no memory, and
no release of a library changes it.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from jaxtyping import Int, Integer, UInt32, UInt64

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_ROUNDS = 6
_BLOCK = 1 << 9  # Indices that are permuted together.


def mix(value: int) -> int:
    """Hash an integer to 64 bits (SplitMix64's finaliser; Steele et al. 2014)."""
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


# Cached, because every row of a batch needs the key of its epoch.
@functools.lru_cache(maxsize=1 << 10)
def key(*numbers: int) -> int:
    """Return a 64-bit key of a few integers, such as (seed, epoch); their order matters."""
    state = 0
    for number in numbers:
        state = mix(state ^ mix(number & _MASK))
    return state


def keys(*numbers: Integer[np.ndarray, " #keys"]) -> UInt32[np.ndarray, "keys 2"]:
    """Return `key` for arrays of integers, each as its high and low 32 bits."""
    state = np.zeros(1, np.uint64)
    for number in numbers:
        state = _mixed(state ^ _mixed(number.astype(np.uint64)))
    return np.stack([state >> np.uint64(32), state & np.uint64(0xFFFFFFFF)], axis=1).astype(np.uint32)


def permute(index: Int[np.ndarray, " *shape"] | int, count: int, key: int) -> Int[np.ndarray, " *shape"]:
    """Apply a keyed permutation of 0..count-1 to indices.

    Args:
      index: numbers from 0 to count - 1.
      count: at least 1.
      key: 64 bits that choose the permutation.

    Returns:
      int64 of the shape of `index`; only the indices asked for are computed (Feistel network).

    Example:
      >>> [permute(np.arange(6), 6, key(7, epoch)).tolist() for epoch in range(2)]
      [[5, 1, 3, 2, 0, 4], [5, 0, 1, 4, 3, 2]]
    """
    index = np.asarray(index, np.int64)
    if index.size and not (0 <= int(index.min()) and int(index.max()) < count):
        raise ValueError(f"indices {int(index.min())}..{int(index.max())} do not lie in 0..{count - 1}")
    if count == 1:
        return np.zeros_like(index)
    values = _encrypt(index.astype(np.uint64).reshape(-1), count, key)
    # The network permutes 0..2^bits-1. Cycle walking: values outside the range are permuted again until they fall
    # inside, which ends, because each cycle returns to its start.
    outside = values >= np.uint64(count)
    while outside.any():
        values[outside] = _encrypt(values[outside], count, key)
        outside = values >= np.uint64(count)
    return values.astype(np.int64).reshape(index.shape)


def permute_one(index: int, count: int, key: int) -> int:
    """Apply `permute` to one index; it is computed with its neighbours, which a run asks for next."""
    return _block(index // _BLOCK, count, key)[index % _BLOCK]


@functools.lru_cache(maxsize=1 << 10)
def _block(number: int, count: int, key: int) -> list[int]:
    return permute(np.arange(number * _BLOCK, min((number + 1) * _BLOCK, count)), count, key).tolist()


def _encrypt(values: UInt64[np.ndarray, " n"], count: int, key: int) -> UInt64[np.ndarray, " n"]:
    bits = max(2, (count - 1).bit_length())
    low_bits = np.uint64(bits // 2)
    low_mask, high_mask = np.uint64((1 << bits // 2) - 1), np.uint64((1 << bits - bits // 2) - 1)
    low, high = values & low_mask, values >> low_bits
    keys = _round_keys(key)
    for number in range(0, 2 * _ROUNDS, 2):
        low ^= _scramble(high, keys[number]) & low_mask
        high ^= _scramble(low, keys[number + 1]) & high_mask
    return (high << low_bits) | low


@functools.lru_cache(maxsize=1 << 10)
def _round_keys(key: int) -> list[np.uint64]:
    return [np.uint64(mix(key + number)) for number in range(2 * _ROUNDS)]


def _mixed(values: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    return _scramble(values + np.uint64(_GOLDEN), np.uint64(0))


# SplitMix64's shifts and factors; as arguments of ufuncs, numpy's integers are faster than Python's.
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def _scramble(values: UInt64[np.ndarray, " n"], key: np.uint64) -> UInt64[np.ndarray, " n"]:
    """Apply SplitMix64's finaliser to an array."""
    values = values ^ key
    values ^= values >> _SHIFTS[0]
    values *= _FACTORS[0]
    values ^= values >> _SHIFTS[1]
    values *= _FACTORS[1]
    values ^= values >> _SHIFTS[2]
    return values


class _Key(np.random.bit_generator.ISeedSequence):
    """Gives a key to Philox, which with the argument `key` also asks the system for a seed that it does not use."""

    def __init__(self, key: UInt64[np.ndarray, " 2"]):
        self._key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:  # noqa: D102 - numpy's.
        return self._key


def generator(seed: int, epoch: int, row: int) -> np.random.Generator:
    """Return the random generator of a row in an epoch (Philox, a counter-based generator; Salmon et al. 2011)."""
    bits = np.random.Philox(_Key(np.array([key(seed, epoch), row], np.uint64)))  # type: ignore[arg-type]
    return np.random.Generator(bits)
