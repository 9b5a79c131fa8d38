"""RoBERTa: BERT trained longer, on full sentences and ever new masks, without next sentences.

Paper:    Liu et al. 2019, "RoBERTa: A robustly optimized BERT pretraining approach" (arXiv:1907.11692).
Hardware: two CPU cores for tiny, a TPU v4-256 or 128 GPUs for base and large (1,024 V100 in section 5).
Command:  lm-jax train --config=roberta:tiny --workdir=/tmp/roberta
          lm-jax train --config=roberta:base --config.data.path='corpus/*.jsonl.zst' --workdir=/mnt/bucket/roberta
Expected: tiny: val/masked_lm_loss 5.96 nats; published sizes: not measured.
"""

import ml_collections

from lm_jax.models.presets import bert


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    """Return the recipe of a variant."""
    return VARIANTS[variant]()


def objective() -> dict:
    """Return the objective: masked tokens in full sentences (section 4.2); every epoch draws other masks (4.1)."""
    return dict(name="masked", masked=dict(rate=0.15, static=0, next_sentence=False, full_sentences=True))


def tiny() -> ml_collections.ConfigDict:
    """Train for a minute on a laptop, on the documentation of the installed Python; other numbers are ours."""
    config = ml_collections.ConfigDict()
    config.objective = objective()
    config.model = bert.roberta("tiny")
    # A small model on little text underfits: dropout would only slow it down.
    config.model.embed.dropout = 0.0
    config.model.stack.block.update(dropout=0.0, attention=dict(dropout=0.0))
    config.data = dict(length=64, batch=16, tokenizer=dict(kind="byte_bpe", vocab_at_most=1024))
    config.optimizer = dict(learning_rate=2e-3, schedule=dict(name="linear", warmup=0.1, final=0.0))
    config.update(train=dict(steps=200), evaluate=dict(every=100, batches=20), checkpoint=dict(every=100))
    return config


def published(size: str, learning_rate: float, warmup: int) -> ml_collections.ConfigDict:
    """Train a published size with the settings of table 9."""
    config = ml_collections.ConfigDict()
    config.objective = objective()
    config.model = bert.roberta(size)  # table 9
    config.model.dtype = "bfloat16"
    config.data = dict(
        length=512,  # section 3.1
        batch=8192,  # table 9: 8k
        validation=0.005,
        tokenizer=dict(kind="byte_bpe", vocab=50304),  # 50,265 in the release, rounded up to a multiple of 128
    )
    config.optimizer = dict(
        learning_rate=learning_rate,
        clip=0.0,  # table 9
        schedule=dict(name="linear", warmup=warmup, final=0.0),  # table 9
        adamw=dict(b2=0.98, epsilon=1e-6, weight_decay=0.01),  # table 9
    )
    config.train = dict(steps=500_000)  # table 9
    config.update(mesh=dict(data=1, fsdp=-1), evaluate=dict(every=5000, batches=50), checkpoint=dict(every=5000))
    return config


# The learning rates and warmups of table 9.
VARIANTS = {
    "tiny": tiny,
    "base": lambda: published("base", learning_rate=6e-4, warmup=24_000),
    "large": lambda: published("large", learning_rate=4e-4, warmup=30_000),
}
