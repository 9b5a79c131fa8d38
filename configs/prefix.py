"""Prefix language models: decoders whose prefix attends in both directions, trained to continue it.

Paper:    Wang et al. 2022, "What language model architecture and pretraining objective work best for zero-shot
          generalization?" (arXiv:2204.05832), the non-causal decoder; the objective is that of Raffel et al. 2020
          (arXiv:1910.10683), sections 3.2.1 and 3.2.3.
Hardware: two CPU cores for tiny, a TPU v5p-64 for 4.8b.
Command:  lm-jax train --config=prefix:tiny --workdir=/tmp/prefix
          lm-jax train --config=prefix:4.8b --config.data.path='corpus/*.jsonl.zst' --workdir=/mnt/bucket/prefix
Expected: tiny: val/loss 5.25 nats per predicted token; 4.8b: not measured.
"""

import ml_collections

from lm_jax.models.presets import t5


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    """Return the recipe of a variant."""
    return VARIANTS[variant]()


def tiny() -> ml_collections.ConfigDict:
    """Train for a minute on a laptop, on the documentation of the installed Python; all numbers are ours."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="causal", causal=dict(prefix=True))
    config.model = t5.t5_decoder("tiny")
    config.model.stack.block.attention.mask = "prefix"
    config.data = dict(length=64, batch=16, tokenizer=dict(kind="unigram", vocab_at_most=1024))
    config.optimizer = dict(learning_rate=3e-3, schedule=dict(name="cosine", warmup=0.1))
    config.update(train=dict(steps=200), evaluate=dict(every=100, batches=20), checkpoint=dict(every=100))
    return config


def wang() -> ml_collections.ConfigDict:
    """Train the 4.8B parameters of Wang et al. on 168 billion tokens, of which half, on average, are predicted."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="causal", causal=dict(prefix=True))
    config.model = t5.t5_decoder("4.8b")
    config.model.stack.block.attention.mask = "prefix"
    config.model.dtype = "bfloat16"
    config.model.stack.remat = "full"
    # Section 3.2: rows of 626 tokens, T5's 512 tokens of source and 114 of target.
    config.data = dict(length=626, batch=2048, validation=0.001, tokenizer=dict(kind="unigram", vocab=32_128))
    # Adafactor with the schedule of Raffel et al., section 3.1.2; the linear warmup to 0.01 is ours, and so is the
    # loss without their term for the size of the logits.
    config.optimizer = dict(name="adafactor", learning_rate=0.01, schedule=dict(name="rsqrt", warmup=10_000), clip=0.0)
    config.train = dict(steps=131_072)  # 168 billion tokens
    config.update(mesh=dict(data=1, fsdp=-1), evaluate=dict(every=5000, batches=50), checkpoint=dict(every=5000))
    return config


VARIANTS = {"tiny": tiny, "4.8b": wang}
