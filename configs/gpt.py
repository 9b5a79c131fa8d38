"""GPT-2 and GPT-3: decoders trained on the next token.

Paper:    Radford et al. 2019, "Language models are unsupervised multitask learners"; it gives no learning
          rates; these are those of Brown et al. 2020, "Language models are few-shot learners" (arXiv:2005.14165),
          table 2.1. 3-175b is theirs.
Hardware: two CPU cores for tiny, a TPU v5e-16 or 8 GPUs for small, 2,048 chips of TPU v5p for 3-175b.
Command:  lm-jax train --config=gpt:tiny --workdir=/tmp/gpt
          lm-jax train --config=gpt:small --config.data.path='corpus/*.jsonl.zst' --workdir=/mnt/bucket/gpt2
Expected: tiny: val/loss 4.93 nats per token, 2.87 bits per byte; published sizes: not measured.
"""

import ml_collections

from lm_jax.models.presets import gpt


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    """Return the recipe of a variant."""
    return VARIANTS[variant]()


def tiny() -> ml_collections.ConfigDict:
    """Train for a minute on a laptop, on the documentation of the installed Python; all numbers are ours."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="causal")
    config.model = gpt.gpt2("tiny")
    config.data = dict(length=64, batch=16, tokenizer=dict(kind="unigram", vocab_at_most=1024))
    config.optimizer = dict(learning_rate=3e-3, schedule=dict(name="cosine", warmup=0.1))
    config.update(train=dict(steps=200), evaluate=dict(every=100, batches=20), checkpoint=dict(every=100))
    return config


def published(size: str, learning_rate: float) -> ml_collections.ConfigDict:
    """Train a published size on batches of half a million tokens."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="causal")
    config.model = gpt.gpt2(size)  # Radford et al., table 2
    config.model.dtype = "bfloat16"
    # Radford et al., section 2.3: length, batch and vocabulary, here rounded up from 50,257 to a multiple of 128.
    config.data = dict(length=1024, batch=512, validation=0.005, tokenizer=dict(kind="bpe", vocab=50304))
    # Brown et al., appendix B: cosine decay; their warmup is 375 million tokens, 715 steps of this batch.
    config.optimizer = dict(learning_rate=learning_rate, schedule=dict(name="cosine", warmup=700))
    config.train = dict(steps=100_000)  # ours: 52 billion tokens
    config.update(mesh=dict(data=1, fsdp=-1), evaluate=dict(every=1000, batches=50), checkpoint=dict(every=1000))
    return config


def third(size: str, learning_rate: float) -> ml_collections.ConfigDict:
    """Train a size of GPT-3, with layers of banded attention between the others, on 300 billion tokens."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="causal")
    config.model = gpt.gpt3(size)  # Brown et al., table 2.1
    config.model.dtype = "bfloat16"
    config.model.stack.remat = "full"
    # Appendix B: rows of 2,048 tokens; table 2.1: batches of 3.2M tokens. 50,257 ids, rounded up to a multiple of 128.
    config.data = dict(length=2048, batch=1536, validation=0.001, tokenizer=dict(kind="bpe", vocab=50304))
    # Appendix B: 375M tokens of warmup, cosine to a tenth over 260B tokens; ours: over all steps.
    config.optimizer = dict(learning_rate=learning_rate, schedule=dict(name="cosine", warmup=119, final=0.1))
    config.train = dict(steps=95_367)
    config.update(mesh=dict(data=1, fsdp=-1), evaluate=dict(every=5000, batches=20), checkpoint=dict(every=1000))
    return config


VARIANTS = {
    "tiny": tiny,
    # Learning rates: Brown et al., table 2.1.
    "small": lambda: published("small", learning_rate=6e-4),
    "medium": lambda: published("medium", learning_rate=3e-4),
    "large": lambda: published("large", learning_rate=2.5e-4),
    "xl": lambda: published("xl", learning_rate=2e-4),
    "3-175b": lambda: third("175b", learning_rate=0.6e-4),
}
# Former variants, now in other recipes.
MOVED = {
    "shakespeare_char": "speedrun:nanogpt",
    "shakespeare_speedrun": "speedrun:record",
    "novels": "novels:gpt",
    "chinese": "chinese:gpt",
    "quickstart": "quickstart:gpt",
}
