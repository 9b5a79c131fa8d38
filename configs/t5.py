"""T5 1.1: encoder-decoders trained on span corruption.

Paper:    Raffel et al. 2020, "Exploring the limits of transfer learning" (arXiv:1910.10683).
Hardware: two CPU cores for tiny, a TPU v5e-16 or 8 GPUs for base.
Command:  lm-jax train --config=t5:tiny --workdir=/tmp/t5
          lm-jax train --config=t5:base --config.data.path='corpus/*.jsonl.zst' --workdir=/mnt/bucket/t5
Expected: tiny: val/loss 4.36 nats per target token; published sizes: not measured.
"""

import ml_collections

from lm_jax.models.presets import t5


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    """Return the recipe of a variant."""
    return VARIANTS[variant]()


def tiny() -> ml_collections.ConfigDict:
    """Train for a minute on a laptop, on the installed Python's documentation; numbers without a source are ours."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="span", span=dict(rate=0.15, mean_span=3.0))  # section 3.7
    config.model = t5.t5("tiny")
    config.data = dict(length=64, batch=16, tokenizer=dict(kind="unigram", vocab_at_most=1024, sentinels=8))
    config.optimizer = dict(learning_rate=3e-3, schedule=dict(name="cosine", warmup=0.1))
    config.update(train=dict(steps=200), evaluate=dict(every=100, batches=20), checkpoint=dict(every=100))
    return config


def published(size: str) -> ml_collections.ConfigDict:
    """Train a size of the 1.1 release on rows of 512 tokens in and 114 out."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="span", span=dict(rate=0.15, mean_span=3.0))  # section 3.7
    config.model = t5.t5(size)
    config.model.dtype = "bfloat16"
    config.data = dict(
        length=512,  # section 3.1.2
        batch=128,  # section 3.1.2
        validation=0.005,
        tokenizer=dict(kind="unigram", vocab=32_128, sentinels=100),  # section 3.1.3; 32,128 rows in the release
    )
    config.optimizer = dict(
        name="adafactor",  # section 3.1.2
        learning_rate=0.01,  # section 3.1.2: 1 / sqrt(10,000) for 10,000 steps, then 1 / sqrt(step)
        schedule=dict(name="rsqrt", warmup=10_000),  # ours: a linear warmup to 0.01
        clip=0.0,
    )
    config.train = dict(steps=524_288)  # section 3.1.2: 2^19
    config.update(mesh=dict(data=1, fsdp=-1), evaluate=dict(every=5000, batches=50), checkpoint=dict(every=5000))
    return config


VARIANTS = {
    "tiny": tiny,
    "small": lambda: published("small"),
    "base": lambda: published("base"),
    "large": lambda: published("large"),
    "xl": lambda: published("xl"),
    "xxl": lambda: published("xxl"),
}
# Former variants, now in other recipes.
MOVED = {"novels": "novels:t5", "quickstart": "quickstart:t5"}
