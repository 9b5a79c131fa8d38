"""PaLM: decoders with parallel layers, one key and value for all heads, and SwiGLU.

Paper:    Chowdhery et al. 2022, "PaLM: Scaling language modeling with Pathways" (arXiv:2204.02311); without its
          auxiliary loss of the softmax's normaliser (section 5).
Hardware: two CPU cores for tiny, 256 chips of TPU v5p for 62b (the paper: 6,144 chips of TPU v4 for 540b).
Command:  lm-jax train --config=palm:tiny --workdir=/tmp/palm
          lm-jax train --config=palm:8b --config.data.path='corpus/*.jsonl.zst' --workdir=/mnt/bucket/palm
Expected: tiny: val/loss 4.99 nats per token, 2.91 bits per byte; published sizes: not measured.
"""

import ml_collections

from lm_jax.models.presets import palm


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    """Return the recipe of a variant."""
    return VARIANTS[variant]()


def tiny() -> ml_collections.ConfigDict:
    """Train for a minute on a laptop, on the documentation of the installed Python; all numbers are ours."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="causal")
    config.model = palm.palm("tiny")
    config.data = dict(length=64, batch=16, tokenizer=dict(kind="unigram", vocab_at_most=1024))
    config.optimizer = dict(learning_rate=3e-3, schedule=dict(name="cosine", warmup=0.1))
    config.update(train=dict(steps=200), evaluate=dict(every=100, batches=20), checkpoint=dict(every=100))
    return config


def published(size: str, batch: int) -> ml_collections.ConfigDict:
    """Train a published size on 780 billion tokens, in batches of one size; the paper's grow twofold or fourfold."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="causal")
    config.model = palm.palm(size)
    config.model.dtype = "bfloat16"
    config.model.stack.remat = "full"  # section 4
    config.data = dict(
        length=2048,  # section 5
        batch=batch,  # table 1: the last size of the batch
        validation=0.001,
        tokenizer=dict(kind="unigram", vocab=256_000),  # section 2: SentencePiece
    )
    config.optimizer = dict(
        name="adafactor",  # section 5; theirs does not factorise the second moments and has momentum 0.9
        learning_rate=0.01,  # section 5: constant for 10,000 steps, then 1 / sqrt(step)
        schedule=dict(name="rsqrt", warmup=10_000),  # ours: a linear warmup to 0.01
        clip=1.0,  # section 5
    )
    config.train = dict(steps=780_000_000_000 // (batch * 2048))  # section 3
    config.update(mesh=dict(data=1, fsdp=-1), evaluate=dict(every=5000, batches=20), checkpoint=dict(every=1000))
    return config


VARIANTS = {
    "tiny": tiny,
    "8b": lambda: published("8b", batch=512),
    "62b": lambda: published("62b", batch=1024),
    "540b": lambda: published("540b", batch=2048),
}
