"""Decoders trained on the next token: GPT-2 (Radford et al. 2019) and nanoGPT's character model.

lm-jax train --config=gpt:tiny --workdir=/tmp/gpt                a minute on a laptop, Python's own documentation
lm-jax train --config=gpt:shakespeare_char --config.data.path=input.txt --workdir=/tmp/char
    nanoGPT's documented CPU setting; docs/claims.md has the validation loss that it reaches
lm-jax train --config=gpt:shakespeare_speedrun --config.data.path=input.txt --workdir=/tmp/fast
    the same text and context in an eighth of the tokens; docs/speedrun.md has the ladder
lm-jax train --config=gpt:small --config.data.path='corpus/*.jsonl.zst' --workdir=/mnt/bucket/gpt2
    GPT-2 124M, batches of half a million tokens; a TPU v5e-16 or 8 GPUs
"""

import ml_collections

from lm_jax.models.presets import gpt

VARIANTS = (
    "tiny",
    "shakespeare_char",
    "shakespeare_speedrun",
    "novels",
    "chinese",
    "quickstart",
    "small",
    "medium",
    "large",
    "xl",
)
# Documentation strings as running prose: their line breaks say nothing.
FLOWING = ("line_breaks", "repair", "compose", "controls", "flow")


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    """The recipe of a variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r} of gpt; known: {', '.join(VARIANTS)}")
    config = ml_collections.ConfigDict()
    config.objective = dict(name="causal")
    if variant == "tiny":
        config.model = gpt.gpt2("tiny")
        config.data = dict(length=64, batch=16, tokenizer=dict(kind="unigram", vocab_at_most=1024))
        config.optimizer = dict(learning_rate=3e-3, schedule=dict(name="cosine", warmup=0.1))
        config.train = dict(steps=200)
        config.evaluate = dict(every=100, batches=20)
        config.checkpoint = dict(every=100)
    elif variant == "shakespeare_char":
        # nanoGPT's README, "only have a macbook": 4 layers, 4 heads, width 128, context 64, batch 12, no dropout.
        config.model = _small(length=64)
        config.data = dict(length=64, batch=12, validation=0.1, tokenizer=dict(kind="characters", vocab_at_most=256))
        # As config/train_shakespeare_char.py (cosine to a tenth, warmup 100, beta2 0.99), but for its peak of 1e-3.
        config.optimizer = dict(
            learning_rate=2e-3,
            schedule=dict(name="cosine", warmup=0.05, final=0.1),
            adamw=dict(b2=0.99, weight_decay=0.1),
        )
        config.train = dict(steps=2000)
        config.evaluate = dict(every=500)
        config.checkpoint = dict(every=500)
    elif variant == "shakespeare_speedrun":
        return _speedrun(config)
    elif variant == "novels":
        config.model = _small(length=128)
        config.data = dict(length=128, batch=16, tokenizer=dict(kind="unigram", vocab_at_most=512, sentinels=16))
        config.optimizer = dict(learning_rate=3e-3, schedule=dict(name="cosine", warmup=0.05))
        config.train = dict(steps=2000)
        config.log = dict(every=100)
        config.evaluate = dict(every=500, batches=50)
        config.checkpoint = dict(every=500)
    elif variant == "chinese":
        config.model = _small(length=128)
        # 3,150 characters are 99.5 % of the text; the others are spelled in bytes.
        tokenizer = dict(kind="unigram", vocab_at_most=4096, character_coverage=0.995, sample_bytes=4_000_000)
        config.data = dict(length=128, batch=16, tokenizer=tokenizer)
        config.optimizer = dict(learning_rate=3e-3, schedule=dict(name="cosine", warmup=100 / 1800))
        config.train = dict(steps=1800)
        config.log = dict(every=100)
        config.evaluate = dict(every=600, batches=50)
        config.checkpoint = dict(every=600)
    elif variant == "quickstart":
        config.model = _small(length=128)
        config.data = dict(
            length=128,
            batch=16,
            tokenizer=dict(kind="unigram", vocab_at_most=2048, sentinels=16),
            clean=dict(steps=FLOWING),
        )
        config.optimizer = dict(
            name="muon", learning_rate=1e-2, schedule=dict(name="linear", warmup=20 / 150, final=0.0)
        )
        config.train = dict(steps=150)
        config.evaluate = dict(every=100, batches=10)
        config.checkpoint = dict(every=150)
    else:
        config.model = gpt.gpt2(variant)
        config.model.dtype = "bfloat16"
        # GPT-3's table 2.1 (Brown et al. 2020) gives batch and learning rate by size; GPT-2's paper does not.
        rate = {"small": 6e-4, "medium": 3e-4, "large": 2.5e-4, "xl": 2e-4}[variant]
        config.data = dict(length=1024, batch=512, validation=0.005, tokenizer=dict(kind="bpe", vocab=50304))
        config.optimizer = dict(learning_rate=rate, schedule=dict(name="cosine", warmup=700))
        config.train = dict(steps=100_000)
        config.mesh = dict(data=1, fsdp=-1)
        config.evaluate = dict(every=1000, batches=50)
        config.checkpoint = dict(every=1000)
    return config


def _small(length: int) -> ml_collections.ConfigDict:
    """GPT-2 of nanoGPT's CPU setting: 4 layers, 4 heads, width 128."""
    model = gpt.gpt2("tiny")
    model.embed.width, model.embed.max_length = 128, length
    model.stack.depth, model.stack.block.attention.heads = 4, 4
    return model


def _speedrun(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The lowest validation loss in 192,000 characters of training text; every choice is a line of docs/speedrun.md."""
    config.model = _small(length=64)
    config.model.embed.positions = "none"
    block = config.model.stack.block
    block.attention.update(position="rotary", qk_norm=True, convolution=4, bias=False, out_bias=False)
    block.feedforward.update(activation="squared_relu", bias=False, convolution=4)
    block.norm.update(name="rms", bias=False)
    config.model.norm.update(name="rms", bias=False)
    config.data = dict(length=64, batch=3, validation=0.1, tokenizer=dict(kind="characters", vocab_at_most=256))
    config.optimizer = dict(
        name="muon",
        learning_rate=7e-3,
        schedule=dict(name="linear", warmup=0.01, final=0.0),
        muon=dict(weight_decay=0.0),
    )
    config.train = dict(steps=1000)
    config.log = dict(every=100)
    config.evaluate = dict(every=0)
    config.checkpoint = dict(every=0)
    return config
