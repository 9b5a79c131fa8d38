"""The original Transformer, an encoder-decoder, trained on span corruption.

Paper:    Vaswani et al. 2017, "Attention is all you need" (arXiv:1706.03762). It trains on translation; here the model
          restores removed spans, so that any text will do.
Hardware: two CPU cores for tiny, 8 GPUs (section 5.2) for base.
Command:  lm-jax train --config=transformer:tiny --workdir=/tmp/transformer
          lm-jax train --config=transformer:base --config.data.path='corpus/*.zst' --workdir=/mnt/bucket/transformer
Expected: tiny: val/loss 4.74 nats per target token; published sizes: not measured.
"""

import ml_collections

from lm_jax.models.presets import transformer


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    """Return the recipe of a variant."""
    return VARIANTS[variant]()


def tiny() -> ml_collections.ConfigDict:
    """Train for a minute on a laptop, on the documentation of the installed Python; all numbers are ours."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="span")
    config.model = transformer.transformer("tiny")
    config.data = dict(length=64, batch=16, tokenizer=dict(kind="bpe", vocab_at_most=1024, sentinels=8))
    config.optimizer = dict(learning_rate=1e-3, schedule=dict(name="rsqrt", warmup=0.25))
    config.update(train=dict(steps=200), evaluate=dict(every=100, batches=20), checkpoint=dict(every=100))
    return config


def published(size: str, steps: int) -> ml_collections.ConfigDict:
    """Train a published size; length, batch and objective are ours."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="span")
    config.model = transformer.transformer(size)  # table 3
    tokenizer = dict(kind="bpe", vocab=37_000, sentinels=100)  # section 5.1
    config.data = dict(length=512, batch=128, validation=0.005, tokenizer=tokenizer)
    config.optimizer = dict(
        learning_rate=(config.model.embed.width * 4000) ** -0.5,  # equation 3 at the end of the warmup
        schedule=dict(name="rsqrt", warmup=4000),  # section 5.3
        adamw=dict(b2=0.98, epsilon=1e-9, weight_decay=0.0),  # section 5.3
        clip=0.0,
    )
    config.train = dict(steps=steps)
    config.update(mesh=dict(data=1, fsdp=-1), evaluate=dict(every=2000, batches=50), checkpoint=dict(every=2000))
    return config


VARIANTS = {
    "tiny": tiny,
    "base": lambda: published("base", steps=100_000),  # section 5.2
    "big": lambda: published("big", steps=300_000),  # section 5.2
}
