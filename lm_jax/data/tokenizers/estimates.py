"""Estimates the progress of training a tokenizer from the lines that the libraries write to standard error.

How the stages share the time was measured on some megabytes of documentation and of random letters; on other text the
estimates may be wrong by a factor of two.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable

from lm_jax.data.tokenizers.base import SPECIALS, TokenizerConfig

# From a line of output to the share of the training that is done, in 0..1, or to None if the line does not show it.
Listener = Callable[[bytes], float | None]

# Sentencepiece's unigram keeps three quarters of its pieces after each round of two EM iterations, until it has 1.1
# times the vocabulary.
_SHRINKING, _ITERATIONS, _EXCESS = 0.75, 2, 1.1
_SEEDS = 0.15  # Share of the time that the choice of seed pieces takes.


def unigram(config: TokenizerConfig) -> Listener:
    """Return a listener: the choice of seed pieces, then EM rounds, whose number follows from the sizes."""
    iterations = 0

    def share(line: bytes) -> float | None:
        nonlocal iterations
        if b"Extracting seed" in line:
            return _SEEDS / 3
        if b"seed pieces" in line and b"Initialized" in line:
            return _SEEDS
        match = re.search(rb"EM sub_iter=(\d+) size=(\d+)", line)
        if not match:
            return None
        iterations += 1
        rounds = math.log(int(match[2]) / (_EXCESS * config.target_size), 1 / _SHRINKING)
        remaining = _ITERATIONS * max(0, math.ceil(rounds)) + _ITERATIONS - 1 - int(match[1])
        return _SEEDS + (1 - _SEEDS) * iterations / (iterations + max(0, remaining))

    return share


def bpe(config: TokenizerConfig) -> Listener:
    """Return a listener: the first merges join the most frequent pairs and take longest."""
    total = max(1, config.target_size - config.sentinels - len(SPECIALS) - 256)

    def share(line: bytes) -> float | None:
        if b"Done! preprocessed" in line:
            return 0.2
        match = re.search(rb"Merged: .*merges=(\d+)", line)
        return 0.3 + 0.7 * math.sqrt(min(1.0, int(match[1]) / total)) if match else None

    return share


def _stages(spans: dict[str, tuple[float, float]]) -> Callable[[TokenizerConfig], Listener]:
    """Return a factory of listeners to JSON lines; `spans`: share of the time before and after each stage."""

    def listener(config: TokenizerConfig) -> Listener:
        def share(line: bytes) -> float | None:
            try:
                entry = json.loads(line)
                first, last = spans[entry["stage"]]
                done = entry["current"] / max(1, entry["total"])
            except (ValueError, TypeError, KeyError):
                return None
            return first + (last - first) * (math.sqrt(done) if entry["stage"] == _MERGES else done)

        return share

    return listener


_MERGES = "Compute merges"
LISTENERS: dict[str, Callable[[TokenizerConfig], Listener]] = {
    "unigram": unigram,
    "bpe": bpe,
    "wordpiece": _stages({"Count characters": (0, 0.45), "Read text": (0.45, 0.85), _MERGES: (0.85, 1)}),
    "byte_bpe": _stages({"Read text": (0, 0.4), _MERGES: (0.4, 1)}),
}
