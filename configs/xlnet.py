"""XLNet: encoders trained to predict tokens in random order, with two streams of attention.

Paper:    Yang et al. 2019, "XLNet: Generalized autoregressive pretraining for language understanding"
          (arXiv:1906.08237).
Hardware: two CPU cores for tiny, a TPU v5e-256 for base and large (the paper: 512 TPU v3 chips for large).
Command:  lm-jax train --config=xlnet:tiny --workdir=/tmp/xlnet
          lm-jax train --config=xlnet:base --config.data.path='corpus/*.jsonl.zst' --workdir=/mnt/bucket/xlnet
Expected: tiny: val/loss 5.44 nats per target, accuracy 0.10; published sizes: not measured.
"""

import ml_collections

from lm_jax.models.presets import xlnet


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    """Return the recipe of a variant."""
    return VARIANTS[variant]()


def tiny() -> ml_collections.ConfigDict:
    """Train for a minute on a laptop, on the installed Python's documentation; numbers without a source are ours."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="permutation", permutation=dict(one_in=6, longest=5, pairs=False))  # table 7, 3.1
    config.model = xlnet.xlnet("tiny")
    # A small model on little text underfits: dropout would only slow it down.
    config.model.embed.dropout = 0.0
    config.model.stack.block.update(dropout=0.0, attention=dict(dropout=0.0), feedforward=dict(dropout=0.0))
    config.data = dict(length=64, batch=16, tokenizer=dict(kind="unigram", vocab_at_most=1024))
    config.optimizer = dict(learning_rate=2e-3, schedule=dict(name="linear", warmup=0.1, final=0.0))
    config.update(train=dict(steps=200), evaluate=dict(every=100, batches=20), checkpoint=dict(every=100))
    return config


def published(size: str) -> ml_collections.ConfigDict:
    """Train a published size on pairs of segments, without the memory of earlier segments (section 2.4).

    The table is XLNet-Large's; it serves for the base size too, whose settings the paper does not list.
    """
    config = ml_collections.ConfigDict()
    config.objective = dict(name="permutation")
    config.objective.permutation = dict(
        one_in=6,  # table 7
        longest=5,  # section 3.1
        lengths="uniform",  # section 3.1
        pairs=True,  # section 2.5; without a loss for pairs
    )
    config.model = xlnet.xlnet(size)  # table 7
    config.model.stack.block.feedforward.dropout = 0.0  # table 7: GELU dropout
    config.model.dtype = "bfloat16"
    config.data = dict(
        length=512,  # table 7
        batch=8192,  # table 7
        validation=0.005,
        rows=dict(short=0.0, random=0.5),  # section 3.1: always the full length; section 2.5, as BERT
        tokenizer=dict(kind="unigram", vocab=32_000),  # section 3.1: SentencePiece; 32,000 in the release
    )
    config.optimizer = dict(
        learning_rate=4e-4,  # table 7
        schedule=dict(name="linear", warmup=40_000, final=0.0),  # table 7
        adamw=dict(b2=0.999, epsilon=1e-6, weight_decay=0.01),  # table 7; b2: the released code
    )
    config.train = dict(steps=500_000)  # table 7
    config.update(mesh=dict(data=1, fsdp=-1), evaluate=dict(every=5000, batches=50), checkpoint=dict(every=5000))
    return config


VARIANTS = {"tiny": tiny, "base": lambda: published("base"), "large": lambda: published("large")}
