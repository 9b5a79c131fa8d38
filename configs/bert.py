"""BERT: encoders trained on masked tokens and next sentences.

Paper:    Devlin et al. 2019, "BERT: Pre-training of deep bidirectional transformers" (arXiv:1810.04805).
Hardware: two CPU cores for tiny, a TPU v5e-16 or 8 GPUs for base.
Command:  lm-jax train --config=bert:tiny --workdir=/tmp/bert
          lm-jax train --config=bert:base --config.data.path='corpus/*.jsonl.zst' --workdir=/mnt/bucket/bert
          lm-jax train --config=bert:base_512 --fork=/mnt/bucket/bert --config.data.path='corpus/*.jsonl.zst' \
            --workdir=/mnt/bucket/bert_512
Expected: tiny: val/masked_lm_loss 5.38 nats, next-sentence accuracy still at chance; published sizes: not measured.
"""

import ml_collections

from lm_jax.models.presets import bert


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    """Return the recipe of a variant."""
    return VARIANTS[variant]()


def tiny() -> ml_collections.ConfigDict:
    """Train for a minute on a laptop, on the documentation of the installed Python; all numbers are ours."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="masked", masked=dict(rate=0.15, next_sentence=True))
    config.model = bert.bert("tiny")
    # A small model on little text underfits: dropout would only slow it down.
    config.model.embed.dropout = 0.0
    config.model.stack.block.update(dropout=0.0, attention=dict(dropout=0.0))
    config.data = dict(length=64, batch=16, tokenizer=dict(kind="unigram", vocab_at_most=1024))
    config.optimizer = dict(learning_rate=2e-3, schedule=dict(name="linear", warmup=0.1, final=0.0))
    config.update(train=dict(steps=200), evaluate=dict(every=100, batches=20), checkpoint=dict(every=100))
    return config


def published(size: str) -> ml_collections.ConfigDict:
    """Train a published size at length 128, that of 90 % of the steps of section A.2; add base_512 for the others."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="masked", masked=dict(rate=0.15, next_sentence=True))  # section 3.1
    config.model = bert.bert(size)  # section 3
    config.model.dtype = "bfloat16"
    config.data = dict(
        length=128,  # section A.2
        batch=1024,  # 256 in section A.2, times four
        validation=0.005,
        tokenizer=dict(kind="unigram", vocab=30592),  # 30,522 in the release, rounded up to a multiple of 128
    )
    config.optimizer = dict(
        learning_rate=2e-4,  # 1e-4 in section A.2, times the square root of four
        schedule=dict(name="linear", warmup=10_000, final=0.0),  # section A.2
        adamw=dict(b2=0.999, epsilon=1e-6, weight_decay=0.01),  # section A.2; epsilon: the released code
    )
    config.train = dict(steps=225_000)  # section A.2: 90 % of 1,000,000 batches of 256
    config.update(mesh=dict(data=1, fsdp=-1), evaluate=dict(every=5000, batches=50), checkpoint=dict(every=5000))
    return config


def long(size: str) -> ml_collections.ConfigDict:
    """Train a run of `published` further at length 512, for the last 10 % of the steps of section A.2; use --fork."""
    config = published(size)
    config.data.update(length=512, batch=256)  # section A.2
    config.optimizer.learning_rate = 1e-5  # the linear schedule of section A.2 after 90 % of its steps
    config.optimizer.schedule.warmup = 0
    config.train.steps = 100_000  # section A.2
    return config


def whole_words(size: str) -> ml_collections.ConfigDict:
    """Mask whole words, as the models released in May 2019 as "whole word masking"."""
    config = published(size)
    config.objective.masked.choose = dict(unit="word")
    return config


def static(size: str) -> ml_collections.ConfigDict:
    """Train on ten fixed versions of every row, as the released data (RoBERTa, section 4.1, compares both)."""
    config = published(size)
    config.objective.masked.static = 10
    return config


VARIANTS = {
    "tiny": tiny,
    "base": lambda: published("base"),
    "large": lambda: published("large"),
    "base_512": lambda: long("base"),
    "large_512": lambda: long("large"),
    "large_wwm": lambda: whole_words("large"),
    "base_static": lambda: static("base"),
}
# Former variants, now in other recipes.
MOVED = {"novels": "novels:bert", "chinese": "chinese:bert", "quickstart": "quickstart:bert"}
