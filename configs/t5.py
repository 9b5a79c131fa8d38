"""Encoder-decoders trained on span corruption: T5 (Raffel et al. 2020, arXiv:1910.10683), version 1.1.

lm-jax train --config=t5:tiny --workdir=/tmp/t5                  a minute on a laptop, Python's own documentation
lm-jax train --config=t5:base --config.data.path='corpus/*.jsonl.zst' --workdir=/mnt/bucket/t5
    T5 1.1 base: 512 tokens in, 114 out, batch 128, Adafactor, 1 / sqrt(step) (section 3.1.2); a TPU v5e-16 or 8 GPUs
"""

import ml_collections

from lm_jax.models.presets import t5

VARIANTS = ("tiny", "novels", "quickstart", "small", "base", "large", "xl", "xxl")
# Documentation strings as running prose: their line breaks say nothing.
FLOWING = ("line_breaks", "repair", "compose", "controls", "flow")


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    """The recipe of a variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r} of t5; known: {', '.join(VARIANTS)}")
    config = ml_collections.ConfigDict()
    config.objective = dict(name="span", span=dict(rate=0.15, mean_span=3.0))
    if variant not in ("tiny", "novels", "quickstart"):
        config.model = t5.t5(variant)
        config.model.dtype = "bfloat16"
        config.data = dict(
            length=512, batch=128, validation=0.005, tokenizer=dict(kind="unigram", vocab=32_128, sentinels=100)
        )
        # Section 3.1.2: 2^19 steps, 10,000 of them at 0.01, then 1 / sqrt(step).
        config.optimizer = dict(
            name="adafactor", learning_rate=0.01, schedule=dict(name="rsqrt", warmup=10_000), clip=0.0
        )
        config.train = dict(steps=524_288)
        config.mesh = dict(data=1, fsdp=-1)
        config.evaluate = dict(every=5000, batches=50)
        config.checkpoint = dict(every=5000)
        return config
    config.model = t5.t5("tiny")
    if variant == "tiny":
        config.data = dict(length=64, batch=16, tokenizer=dict(kind="unigram", vocab_at_most=1024, sentinels=8))
        config.optimizer = dict(learning_rate=3e-3, schedule=dict(name="cosine", warmup=0.1))
        config.train = dict(steps=200)
        config.evaluate = dict(every=100, batches=20)
        config.checkpoint = dict(every=100)
        return config
    novels = variant == "novels"
    # Table 6's highest rate and table 7's longest spans: four times as many tokens to learn from in a row.
    config.objective.span = dict(rate=0.5, mean_span=10.0)
    config.model.embed.width = 128
    for side in (config.model.encoder, config.model.decoder):
        side.depth = 3
        side.block.feedforward.width = 256
        side.block.attention.heads = 4
    config.model.decoder.block.cross.heads = 4
    config.data = dict(
        length=96,
        batch=16,
        tokenizer=dict(kind="unigram", vocab_at_most=512 if novels else 2048, sentinels=16),
        clean=dict() if novels else dict(steps=FLOWING),
    )
    # Relative biases are scores themselves: at the rate of everything else they take thousands of steps to grow.
    config.optimizer = dict(
        name="muon",
        learning_rate=1e-2,
        schedule=dict(name="linear", warmup=0.02 if novels else 20 / 150, final=0.0),
        multipliers=(dict(pattern="relative", factor=5.0),),
    )
    config.train = dict(steps=5000 if novels else 150)
    config.log = dict(every=100 if novels else 10)
    config.evaluate = dict(every=500 if novels else 100, batches=50 if novels else 10)
    config.checkpoint = dict(every=500 if novels else 150)
    return config
