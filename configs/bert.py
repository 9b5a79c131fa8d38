"""Encoders trained on masked tokens and next sentences: BERT (Devlin et al. 2019, arXiv:1810.04805).

lm-jax train --config=bert:tiny --workdir=/tmp/bert              a minute on a laptop, Python's own documentation
lm-jax train --config=bert:base --config.data.path='corpus/*.jsonl.zst' --workdir=/mnt/bucket/bert
    BERT base at length 128, batch 256 x 4 (section A.2 trains 90 % of the steps at 128); a TPU v5e-16 or 8 GPUs
"""

import ml_collections

from lm_jax.models.presets import bert

VARIANTS = ("tiny", "novels", "chinese", "quickstart", "base", "large")
# Documentation strings as running prose: their line breaks say nothing.
FLOWING = ("line_breaks", "repair", "compose", "controls", "flow")


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    """The recipe of a variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r} of bert; known: {', '.join(VARIANTS)}")
    config = ml_collections.ConfigDict()
    config.objective = dict(name="masked", masked=dict(rate=0.15, next_sentence=True))
    if variant in ("base", "large"):
        config.model = bert.bert(variant)
        config.model.dtype = "bfloat16"
        config.data = dict(length=128, batch=1024, validation=0.005, tokenizer=dict(kind="unigram", vocab=30592))
        # Section A.2: Adam, 1e-4, beta2 0.999, weight decay 0.01, warmup 10,000, linear decay, 1,000,000 steps of 256.
        config.optimizer = dict(
            learning_rate=2e-4,
            schedule=dict(name="linear", warmup=10_000, final=0.0),
            adamw=dict(b2=0.999, epsilon=1e-6, weight_decay=0.01),
        )
        config.train = dict(steps=250_000)
        config.mesh = dict(data=1, fsdp=-1)
        config.evaluate = dict(every=5000, batches=50)
        config.checkpoint = dict(every=5000)
        return config
    config.model = bert.bert("tiny")
    # Small models on little text underfit; dropout would only slow them down.
    config.model.embed.dropout = 0.0
    config.model.stack.block.dropout = 0.0
    config.model.stack.block.attention.dropout = 0.0
    if variant != "tiny":
        config.model.embed.width = 128
        config.model.stack.depth = 4
        config.model.stack.block.attention.heads = 4
        # A masked token's neighbours are found by attention alone: with learned positions that takes thousands of steps
        # at this size, with rotary ones hundreds.
        config.model.embed.positions = "none"
        config.model.stack.block.attention.position = "rotary"
    if variant == "tiny":
        config.data = dict(length=64, batch=16, tokenizer=dict(kind="unigram", vocab_at_most=1024))
        config.optimizer = dict(learning_rate=2e-3, schedule=dict(name="linear", warmup=0.1, final=0.0))
        config.train = dict(steps=200)
        config.evaluate = dict(every=100, batches=20)
        config.checkpoint = dict(every=100)
    elif variant == "quickstart":
        config.data = dict(
            length=64,
            batch=32,
            tokenizer=dict(kind="unigram", vocab_at_most=2048, sentinels=16),
            clean=dict(steps=FLOWING),
        )
        # Twice BERT's share of masks: there is little time to learn from them.
        config.objective.masked.rate = 0.3
        config.optimizer = dict(
            name="muon", learning_rate=1e-2, schedule=dict(name="linear", warmup=20 / 240, final=0.0)
        )
        config.train = dict(steps=240)
        config.evaluate = dict(every=150, batches=10)
        config.checkpoint = dict(every=150)
    else:
        # Without pairs: there are few enough to be learnt by heart, and that is then all that is learnt.
        config.objective.masked.next_sentence = False
        tokenizer = dict(kind="unigram", vocab_at_most=512, sentinels=16)
        if variant == "chinese":
            # As gpt:chinese.
            tokenizer = dict(kind="unigram", vocab_at_most=4096, character_coverage=0.995, sample_bytes=4_000_000)
        config.data = dict(length=64, batch=32, tokenizer=tokenizer)
        config.optimizer = dict(
            name="muon", learning_rate=1e-2, schedule=dict(name="linear", warmup=100 / 3000, final=0.0)
        )
        config.train = dict(steps=3000)
        config.log = dict(every=100)
        config.evaluate = dict(every=1000, batches=50)
        config.checkpoint = dict(every=1000)
    return config
