"""ERNIE 1.0: encoders trained to fill masked phrases and named entities, given as spans of the text.

Paper:    Sun et al. 2019, "ERNIE: Enhanced representation through knowledge integration" (arXiv:1904.09223).
Hardware: two CPU cores for tiny, a TPU v5e-16 or 8 GPUs for base.
Command:  python -m lm_jax.data.phrases stdlib /tmp/phrases.jsonl
          lm-jax train --config=ernie:tiny --config.data.path=/tmp/phrases.jsonl --workdir=/tmp/ernie
          lm-jax train --config=ernie:phrases --config.data.path='corpus/*.jsonl.zst' --workdir=/mnt/bucket/phrases
          lm-jax train --config=ernie:entities --fork=/mnt/bucket/phrases --config.data.path='corpus/*.jsonl.zst' \
            --workdir=/mnt/bucket/entities
Expected: tiny: val/masked_lm_loss 5.61 nats; published sizes: not measured.

A record has a text, and lists of [start, end, name] in characters: "spans" for tiny, "phrases" and "entities" for the
stages of section 3.2. `lm_jax.data.phrases` writes phrases by statistics alone; write those of a chunker and the
entities of a tagger in the same way. The paper's dialogue task (section 4.2) is left out.
"""

import ml_collections

from lm_jax.models.presets import bert


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    """Return the recipe of a variant."""
    return VARIANTS[variant]()


def objective() -> dict:
    """Return the objective: whole spans are masked, and single tokens outside of them (section 3.2)."""
    return dict(name="masked", masked=dict(rate=0.15, choose=dict(unit="span"), next_sentence=False))


def columns(field: str) -> dict:
    """Return the columns of a text and of spans in the field `field` of a record."""
    return dict(text=dict(kind="text"), spans=dict(kind="spans", field=field))


def tiny() -> ml_collections.ConfigDict:
    """Train for a minute on a laptop, on a file of texts and spans; all numbers are ours."""
    config = ml_collections.ConfigDict()
    config.objective = objective()
    config.model = bert.bert("tiny")
    config.model.pair_classes = 0
    # A small model on little text underfits: dropout would only slow it down.
    config.model.embed.dropout = 0.0
    config.model.stack.block.update(dropout=0.0, attention=dict(dropout=0.0))
    config.data = dict(length=64, batch=16, columns=columns("spans"))
    config.data.tokenizer = dict(kind="unigram", vocab_at_most=1024)
    config.optimizer = dict(learning_rate=2e-3, schedule=dict(name="linear", warmup=0.1, final=0.0))
    config.update(train=dict(steps=200), evaluate=dict(every=100, batches=20), checkpoint=dict(every=100))
    return config


def stage(field: str) -> ml_collections.ConfigDict:
    """Train one stage of section 3.2 at the size of section 4; training, not described, is that of bert:base."""
    config = ml_collections.ConfigDict()
    config.objective = objective()
    config.model = bert.bert("base")  # section 4: 12 layers, 768 hidden units, 12 heads
    config.model.pair_classes = 0
    config.model.dtype = "bfloat16"
    config.data = dict(length=128, batch=1024, validation=0.005, columns=columns(field))
    config.data.tokenizer = dict(kind="unigram", vocab=17984)  # 17,964 characters in section 4.1, rounded up
    config.optimizer = dict(
        learning_rate=2e-4,
        schedule=dict(name="linear", warmup=10_000, final=0.0),
        adamw=dict(b2=0.999, epsilon=1e-6, weight_decay=0.01),
    )
    config.train = dict(steps=250_000)
    config.update(mesh=dict(data=1, fsdp=-1), evaluate=dict(every=5000, batches=50), checkpoint=dict(every=5000))
    return config


VARIANTS = {"tiny": tiny, "phrases": lambda: stage("phrases"), "entities": lambda: stage("entities")}
