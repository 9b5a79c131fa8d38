"""How far the training of a tokenizer is, from the lines that the libraries write on standard error.

The shares of time are those of some megabytes of documentation and of random letters; other text may be half or twice
as far.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable

from lm_jax.data.tokenizers.base import SPECIALS, TokenizerConfig

# What a line says is done, in 0..1; None where it says nothing of that.
Listener = Callable[[bytes], float | None]

# Sentencepiece's unigram drops a quarter of its pieces in each round of two iterations, until it has 1.1 times the
# vocabulary.
_SHRINKS, _ITERATIONS, _SPARE = 0.75, 2, 1.1
_SEEDS = 0.15


def unigram(config: TokenizerConfig) -> Listener:
    """Seed pieces, then rounds of expectation maximisation whose number follows from the sizes."""
    iterations = 0

    def share(line: bytes) -> float | None:
        nonlocal iterations
        if b"Extracting seed" in line:
            return _SEEDS / 3
        if b"seed pieces" in line and b"Initialized" in line:
            return _SEEDS
        found = re.search(rb"EM sub_iter=(\d+) size=(\d+)", line)
        if not found:
            return None
        iterations += 1
        rounds = math.log(int(found[2]) / (_SPARE * config.target_size), 1 / _SHRINKS)
        left = _ITERATIONS * max(0, math.ceil(rounds)) + _ITERATIONS - 1 - int(found[1])
        return _SEEDS + (1 - _SEEDS) * iterations / (iterations + max(0, left))

    return share


def bpe(config: TokenizerConfig) -> Listener:
    """Merges; the first ones are the most frequent and take longest."""
    whole = max(1, config.target_size - config.sentinels - len(SPECIALS) - 256)

    def share(line: bytes) -> float | None:
        if b"Done! preprocessed" in line:
            return 0.2
        found = re.search(rb"Merged: .*merges=(\d+)", line)
        return 0.3 + 0.7 * math.sqrt(min(1.0, int(found[1]) / whole)) if found else None

    return share


def _stages(spans: dict[str, tuple[float, float]]) -> Callable[[TokenizerConfig], Listener]:
    """Stages in lines of JSON, and what is done before and after each."""

    def listener(config: TokenizerConfig) -> Listener:
        def share(line: bytes) -> float | None:
            try:
                entry = json.loads(line)
                first, last = spans[entry["stage"]]
                part = entry["current"] / max(1, entry["total"])
            except (ValueError, TypeError, KeyError):
                return None
            return first + (last - first) * (math.sqrt(part) if entry["stage"] == _MERGES else part)

        return share

    return listener


_MERGES = "Compute merges"
LISTENERS: dict[str, Callable[[TokenizerConfig], Listener]] = {
    "unigram": unigram,
    "bpe": bpe,
    "wordpiece": _stages({"Count characters": (0, 0.45), "Read text": (0.45, 0.85), _MERGES: (0.85, 1)}),
    "byte_bpe": _stages({"Read text": (0, 0.4), _MERGES: (0.4, 1)}),
}
