"""ELECTRA: encoders trained to detect the tokens that a small generator replaced.

Paper:    Clark et al. 2020, "ELECTRA: Pre-training text encoders as discriminators" (arXiv:2003.10555).
Hardware: two CPU cores for tiny, one GPU for small, a TPU v5e-16 or 8 GPUs for base.
Command:  lm-jax train --config=electra:tiny --workdir=/tmp/electra
          lm-jax train --config=electra:small --config.data.path='corpus/*.jsonl.zst' --workdir=/mnt/bucket/electra
Expected: tiny: val/loss 25.1, val/generator_loss 5.41 nats, val/discriminator_loss 0.395: little less than the 0.400 of
          a constant answer, because 14 % of the tokens are replaced; published sizes: not measured.
"""

import ml_collections

from lm_jax.models.presets import bert


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    """Return the recipe of a variant."""
    return VARIANTS[variant]()


def tiny() -> ml_collections.ConfigDict:
    """Train for a minute on a laptop, on the documentation of the installed Python; all numbers are ours."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="replaced", replaced=dict(rate=0.15))
    config.model = bert.electra("tiny")
    config.model.detection = True
    config.models = dict(generator=bert.electra_generator("tiny"))
    # Small models on little text underfit: dropout would only slow them down.
    config.model.embed.dropout = config.models.generator.embed.dropout = 0.0
    config.model.stack.block.update(dropout=0.0, attention=dict(dropout=0.0))
    config.models.generator.stack.block.update(dropout=0.0, attention=dict(dropout=0.0))
    config.data = dict(length=64, batch=16, tokenizer=dict(kind="unigram", vocab_at_most=1024))
    config.optimizer = dict(learning_rate=2e-3, schedule=dict(name="linear", warmup=0.1, final=0.0))
    config.update(train=dict(steps=200), evaluate=dict(every=100, batches=20), checkpoint=dict(every=100))
    return config


def published(
    size: str, *, length: int, batch: int, learning_rate: float, steps: int, rate: float = 0.15
) -> ml_collections.ConfigDict:
    """Train a published size; numbers without a source are from table 6 (appendix A)."""
    config = ml_collections.ConfigDict()
    config.objective = dict(
        name="replaced",
        replaced=dict(
            rate=rate,  # "mask percent"
            mask=1.0,  # section 2; the released code masks 0.85 of the chosen tokens and leaves the others
            share="all",  # section 3.2
            weight=50.0,  # section 2, appendix A
        ),
    )
    config.model = bert.electra(size)
    config.model.detection = True
    config.models = dict(generator=bert.electra_generator(size))  # "generator size"
    config.model.dtype = config.models.generator.dtype = "bfloat16"
    config.data = dict(
        length=length,  # section 3.3: 128 for small, 512 for BERT's sizes
        batch=batch,
        validation=0.005,
        tokenizer=dict(kind="unigram", vocab=30592),  # 30,522 in the release, rounded up to a multiple of 128
    )
    config.optimizer = dict(
        learning_rate=learning_rate,
        schedule=dict(name="linear", warmup=10_000, final=0.0),
        adamw=dict(b2=0.999, epsilon=1e-6, weight_decay=0.01),
        clip=1.0,  # the released code
    )
    config.train = dict(steps=steps)
    config.update(mesh=dict(data=1, fsdp=-1), evaluate=dict(every=5000, batches=50), checkpoint=dict(every=5000))
    return config


def small() -> ml_collections.ConfigDict:
    """Train ELECTRA-small."""
    return published("small", length=128, batch=128, learning_rate=5e-4, steps=1_000_000)


def base() -> ml_collections.ConfigDict:
    """Train ELECTRA-base."""
    return published("base", length=512, batch=256, learning_rate=2e-4, steps=766_000)


def large() -> ml_collections.ConfigDict:
    """Train ELECTRA-large; 400,000 steps give "ELECTRA-400K", 1,750,000 "ELECTRA-1.75M" (section 3.4)."""
    return published("large", length=512, batch=2048, learning_rate=2e-4, steps=400_000, rate=0.25)


VARIANTS = {"tiny": tiny, "small": small, "base": base, "large": large}
