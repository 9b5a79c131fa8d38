"""Baselines that a trained model must beat: a unigram and a bigram model."""

import json

import numpy as np

from lm_jax import experiment


def unigram_loss(train: np.ndarray, targets: np.ndarray, vocab: int) -> float:
    """Mean -log P(target) of add-one smoothed token frequencies, in nats."""
    counts = np.bincount(train, minlength=vocab) + 1.0
    return float(-np.log(counts / counts.sum())[targets].mean())


class Bigram:
    """P(token | left neighbour): pair counts interpolated with token frequencies by Witten-Bell weights.

    P(b | a) = (c(a, b) + t(a) P(b)) / (c(a) + t(a)), where t(a) is the number of distinct tokens after a
    (Witten and Bell 1991; Chen and Goodman 1998, section 2.5).
    """

    def __init__(self, train: np.ndarray, vocab: int):
        counts = np.bincount(train, minlength=vocab) + 1.0
        self.unigram = counts / counts.sum()
        self.vocab = vocab
        pairs = train[:-1].astype(np.int64) * vocab + train[1:]
        self.pairs, self.counts = np.unique(pairs, return_counts=True)
        left = self.pairs // vocab
        self.totals = np.bincount(left, weights=self.counts, minlength=vocab)
        self.kinds = np.bincount(left, minlength=vocab).astype(float)

    def loss(self, left: np.ndarray, targets: np.ndarray) -> float:
        """Mean -log P(target | left), in nats."""
        pairs = left.astype(np.int64) * self.vocab + targets
        at = np.minimum(np.searchsorted(self.pairs, pairs), len(self.pairs) - 1)
        counts = np.where(self.pairs[at] == pairs, self.counts[at], 0)
        kinds = np.maximum(self.kinds[left], 1e-9)
        return float(-np.log((counts + kinds * self.unigram[targets]) / (self.totals[left] + kinds)).mean())


def assert_below_unigram(run):
    """Asserts that a run's last validation loss is 0.1 below the unigram baseline; returns the run's store."""
    exp = experiment.prepare(experiment.load(run).config)
    split = int(exp.store.tokens * (1 - exp.config.data.validation))
    train, held_out = exp.store.read(0, split), exp.store.read(split, exp.store.tokens)
    baseline = unigram_loss(train, held_out, exp.tokenizer.vocab_size)
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    loss = [line["val/loss"] for line in metrics if "val/loss" in line][-1]
    assert loss < baseline - 0.1, f"validation loss {loss:.3f}, unigram {baseline:.3f}"
    return exp.store
