"""Batches of fine-tuning, the same for all workers; numpy only, for workers without lm_jax.

Rows have lengths like the sentences of SST-2 (Socher et al. 2013) or of CoNLL-2003 (Tjong Kim Sang and De Meulder 2003)
in word pieces, and random tokens. A batch is padded to the smallest of `BUCKETS` that holds its longest row.
"""

from __future__ import annotations

import numpy as np

ROWS, VOCAB, BUCKETS = 32, 30_522, (16, 32, 48, 64, 96, 128)
# Batches of a unit of work.
COUNT = 8
# For each task: shape and scale of the gamma distribution of the lengths, special tokens not included; labels.
TASKS = {"classify": (3.5, 6.6, 2), "tag": (1.5, 12.5, 9)}


def draw(task: str) -> list[dict[str, np.ndarray]]:
    """Return the batches of one unit of a task.

    `tokens` [rows length], `segments`, which are 1 for tokens and 0 for padding, and `answers`: a label per row, or per
    token, of which `weights` choose two in three.
    """
    rng, batches = np.random.default_rng(0), []
    shape, scale, labels = TASKS[task]
    for _ in range(COUNT):
        lengths = np.clip(np.rint(rng.gamma(shape, scale, ROWS)) + 2, 3, BUCKETS[-1]).astype(int)
        length = min(size for size in BUCKETS if size >= lengths.max())
        segments = (np.arange(length)[None] < lengths[:, None]).astype(np.int32)
        tokens = rng.integers(1000, VOCAB, (ROWS, length), np.int32) * segments
        answers = rng.integers(0, labels, (ROWS, length) if task == "tag" else ROWS, np.int32)
        weights = (segments * (rng.random(segments.shape) < 2 / 3)).astype(np.float32)
        weights = weights if task == "tag" else np.ones(ROWS, np.float32)
        batches.append({"tokens": tokens, "segments": segments, "answers": answers, "weights": weights})
    return batches
