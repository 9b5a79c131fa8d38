"""The original encoder-decoder (Vaswani et al. 2017, arXiv:1706.03762), pre-trained on span corruption.

lm-jax train --config=transformer:tiny --workdir=/tmp/transformer    a minute on a laptop, Python's own documentation

The paper trains on translation; here the same model restores removed spans, so that any text will do.
"""

import ml_collections

from lm_jax.models.presets import transformer

VARIANTS = ("tiny", "base", "big")


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    """The recipe of a variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r} of transformer; known: {', '.join(VARIANTS)}")
    config = ml_collections.ConfigDict()
    config.objective = dict(name="span")
    config.model = transformer.transformer(variant)
    if variant == "tiny":
        config.data = dict(length=64, batch=16, tokenizer=dict(kind="bpe", vocab_at_most=1024, sentinels=8))
        config.optimizer = dict(learning_rate=1e-3, schedule=dict(name="rsqrt", warmup=0.25))
        config.train = dict(steps=200)
        config.evaluate = dict(every=100, batches=20)
        config.checkpoint = dict(every=100)
        return config
    config.data = dict(length=512, batch=128, validation=0.005, tokenizer=dict(kind="bpe", vocab=37_000, sentinels=100))
    # Section 5.3: Adam with beta2 0.98 and epsilon 1e-9; width^-0.5 step^-0.5 after a warmup of 4,000.
    config.optimizer = dict(
        learning_rate=(config.model.embed.width * 4000) ** -0.5,
        schedule=dict(name="rsqrt", warmup=4000),
        adamw=dict(b2=0.98, epsilon=1e-9, weight_decay=0.0),
        clip=0.0,
    )
    config.train = dict(steps=100_000 if variant == "base" else 300_000)  # Section 5.2.
    config.mesh = dict(data=1, fsdp=-1)
    config.evaluate = dict(every=2000, batches=50)
    config.checkpoint = dict(every=2000)
    return config
