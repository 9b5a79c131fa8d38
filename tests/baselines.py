"""What a model has to beat: counts of tokens and of pairs of tokens."""

import json

import numpy as np

from lm_jax import experiment


def unigram_loss(train: np.ndarray, targets: np.ndarray, vocab: int) -> float:
    """Mean -log P(target) of add-one smoothed token frequencies, in nats."""
    counts = np.bincount(train, minlength=vocab) + 1.0
    return float(-np.log(counts / counts.sum())[targets].mean())


class Bigram:
    """P(token | left neighbour): pair counts interpolated with token frequencies, Witten-Bell weights.

    P(b | a) = (c(a, b) + t(a) P(b)) / (c(a) + t(a)), t(a) the number of kinds of tokens seen after a
    (Witten and Bell 1991; Chen and Goodman 1998, section 2.5).
    """

    def __init__(self, train: np.ndarray, vocab: int):
        counts = np.bincount(train, minlength=vocab) + 1.0
        self.unigram = counts / counts.sum()
        self.vocab = vocab
        pairs = train[:-1].astype(np.int64) * vocab + train[1:]
        self.pairs, self.counts = np.unique(pairs, return_counts=True)
        left = self.pairs // vocab
        self.seen = np.bincount(left, weights=self.counts, minlength=vocab)
        self.kinds = np.bincount(left, minlength=vocab).astype(float)

    def loss(self, left: np.ndarray, targets: np.ndarray) -> float:
        """Mean -log P(target | left), in nats."""
        wanted = left.astype(np.int64) * self.vocab + targets
        at = np.minimum(np.searchsorted(self.pairs, wanted), len(self.pairs) - 1)
        found = np.where(self.pairs[at] == wanted, self.counts[at], 0)
        kinds = np.maximum(self.kinds[left], 1e-9)
        return float(-np.log((found + kinds * self.unigram[targets]) / (self.seen[left] + kinds)).mean())


def assert_below_unigram(run):
    """The last validation loss of a finished run is at least 0.1 below the unigram baseline; returns its store."""
    exp = experiment.prepare(experiment.load(run).config)
    cut = int(exp.store.tokens * (1 - exp.config.data.validation))
    train, held_out = exp.store.read(0, cut), exp.store.read(cut, exp.store.tokens)
    baseline = unigram_loss(train, held_out, exp.tokenizer.vocab_size)
    losses = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    reached = [line["val/loss"] for line in losses if "val/loss" in line][-1]
    assert reached < baseline - 0.1, f"validation loss {reached:.3f}, unigram {baseline:.3f}"
    return exp.store
