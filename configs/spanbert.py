"""SpanBERT: encoders trained on masked spans of whole words, and on their boundaries.

Paper:    Joshi et al. 2020, "SpanBERT: Improving pre-training by representing and predicting spans" (arXiv:1907.10529).
Hardware: two CPU cores for tiny, 16 or more GPUs or a TPU v5e-64 for large (32 V100 for 15 days in section 4.2).
Command:  lm-jax train --config=spanbert:tiny --workdir=/tmp/spanbert
          lm-jax train --config=spanbert:large --config.data.path='corpus/*.jsonl.zst' --workdir=/mnt/bucket/spanbert
Expected: tiny: val/masked_lm_loss 5.30 nats, val/boundary_loss 5.25 nats; published sizes: not measured.
"""

import ml_collections

from lm_jax.models.presets import bert

BOUNDARY = 15  # the command of the released code


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    """Return the recipe of a variant."""
    return VARIANTS[variant]()


def objective() -> dict:
    """Return the objective of section 3: spans, their boundaries, and no sentence pairs."""
    return dict(
        name="masked",
        masked=dict(
            rate=0.15,  # section 3.1
            together=True,  # section 3.1: "at the span level"
            choose=dict(unit="word", run="geometric", stop=0.2, longest=10),  # section 3.1
            boundary=BOUNDARY,
            next_sentence=False,  # section 3.3
        ),
    )


def tiny() -> ml_collections.ConfigDict:
    """Train for a minute on a laptop, on the documentation of the installed Python; other numbers are ours."""
    config = ml_collections.ConfigDict()
    config.objective = objective()
    config.model = bert.bert("tiny")
    config.model.update(pair_classes=0, boundary=BOUNDARY, boundary_width=32)
    # A small model on little text underfits: dropout would only slow it down.
    config.model.embed.dropout = 0.0
    config.model.stack.block.update(dropout=0.0, attention=dict(dropout=0.0))
    config.data = dict(length=64, batch=16, tokenizer=dict(kind="unigram", vocab_at_most=1024))
    config.optimizer = dict(learning_rate=2e-3, schedule=dict(name="linear", warmup=0.1, final=0.0))
    config.update(train=dict(steps=200), evaluate=dict(every=100, batches=20), checkpoint=dict(every=100))
    return config


def published(size: str) -> ml_collections.ConfigDict:
    """Train a published size with the settings of section 4.2."""
    config = ml_collections.ConfigDict()
    config.objective = objective()
    config.model = bert.bert(size)  # section 4.2
    config.model.update(pair_classes=0, boundary=BOUNDARY, boundary_width=200)  # section 4.2
    config.model.dtype = "bfloat16"
    config.data = dict(
        length=512,  # section 3.3
        batch=256,  # section 4.2
        validation=0.005,
        rows=dict(plan="document_sentences"),  # section 3.3: a segment of one document
        tokenizer=dict(kind="unigram", vocab=29056),  # 28,996 in the release, rounded up to a multiple of 128
    )
    config.optimizer = dict(
        learning_rate=1e-4,  # section 4.2
        schedule=dict(name="linear", warmup=10_000, final=0.0),  # section 4.2
        adamw=dict(b2=0.999, epsilon=1e-8, weight_decay=0.1),  # section 4.2
    )
    config.train = dict(steps=2_400_000)  # section 4.2
    config.update(mesh=dict(data=1, fsdp=-1), evaluate=dict(every=5000, batches=50), checkpoint=dict(every=5000))
    return config


VARIANTS = {"tiny": tiny, "base": lambda: published("base"), "large": lambda: published("large")}
