"""ALBERT: encoders whose layers share their parameters, trained on masked n-grams and the order of two segments.

Paper:    Lan et al. 2020, "ALBERT: A lite BERT for self-supervised learning of language representations"
          (arXiv:1909.11942).
Hardware: two CPU cores for tiny, a TPU v4-128 or 64 GPUs for the published sizes (64 to 512 TPU v3 in section 4.1).
Command:  lm-jax train --config=albert:tiny --workdir=/tmp/albert
          lm-jax train --config=albert:base --config.data.path='corpus/*.jsonl.zst' --workdir=/mnt/bucket/albert
Expected: tiny: val/masked_lm_loss 5.24 nats, sentence-order accuracy still at chance; published sizes: not measured.

The optimizer differs: section 4.1 takes LAMB at a learning rate of 1.76e-3. AdamW has no scale of its own for each
matrix, so its rate here is BERT's, times the square root of the ratio of the batches.
"""

import ml_collections

from lm_jax.models.presets import bert


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    """Return the recipe of a variant."""
    return VARIANTS[variant]()


def objective() -> dict:
    """Return the objective: n-grams of up to three words (section 4.1) and sentence order (section 3.1)."""
    return dict(
        name="masked",
        masked=dict(
            rate=0.15,  # the released code
            choose=dict(unit="word", run="harmonic", longest=3),  # section 4.1
            next_sentence=False,
            sentence_order=True,  # section 3.1
        ),
    )


def tiny() -> ml_collections.ConfigDict:
    """Train for a minute on a laptop, on the documentation of the installed Python; other numbers are ours."""
    config = ml_collections.ConfigDict()
    config.objective = objective()
    config.model = bert.albert("tiny")
    config.data = dict(length=64, batch=16, tokenizer=dict(kind="unigram", vocab_at_most=1024))
    config.optimizer = dict(learning_rate=2e-3, schedule=dict(name="linear", warmup=0.1, final=0.0))
    config.update(train=dict(steps=200), evaluate=dict(every=100, batches=20), checkpoint=dict(every=100))
    return config


def published(size: str) -> ml_collections.ConfigDict:
    """Train a published size with the settings of section 4.1, but AdamW; no dropout, as version 2 (section 4.8)."""
    config = ml_collections.ConfigDict()
    config.objective = objective()
    config.model = bert.albert(size)  # table 1
    config.model.dtype = "bfloat16"
    config.data = dict(
        length=512,  # section 4.1
        batch=4096,  # section 4.1
        validation=0.005,
        rows=dict(short=0.1),  # section 4.1
        tokenizer=dict(kind="unigram", vocab=30080),  # 30,000 in section 4.1, rounded up to a multiple of 128
    )
    config.optimizer = dict(
        learning_rate=4e-4,  # ours: 1e-4 of BERT at batches of 256, times the square root of 16
        schedule=dict(name="linear", warmup=3125, final=0.0),  # the released code
        adamw=dict(b2=0.999, epsilon=1e-6, weight_decay=0.01),  # the released code
    )
    config.train = dict(steps=125_000)  # section 4.1
    config.update(mesh=dict(data=1, fsdp=-1), evaluate=dict(every=5000, batches=50), checkpoint=dict(every=5000))
    return config


VARIANTS = {
    "tiny": tiny,
    "base": lambda: published("base"),
    "large": lambda: published("large"),
    "xlarge": lambda: published("xlarge"),
    "xxlarge": lambda: published("xxlarge"),
}
