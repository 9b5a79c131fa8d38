"""Fill-in-the-middle: decoders that complete a text between a prefix and a suffix.

Paper:    Bavarian et al. 2022, "Efficient training of language models to fill in the middle" (arXiv:2207.14255).
Hardware: two CPU cores for tiny, a TPU v5e-64 or 32 GPUs for 6.7b.
Command:  lm-jax train --config=fim:tiny --workdir=/tmp/fim
          lm-jax train --config=fim:6.7b --config.data.path='corpus/*.jsonl.zst' --workdir=/mnt/bucket/fim
          lm-jax generate --workdir=/tmp/fim --prompt='<fim_prefix>The file is <fim_suffix> by the caller.<fim_middle>'
Expected: tiny: val/loss 4.84 nats per token, markers included; published sizes: not measured.
"""

import ml_collections

from lm_jax.models.presets import gpt

MARKERS = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    """Return the recipe of a variant."""
    return VARIANTS[variant]()


def tiny() -> ml_collections.ConfigDict:
    """Train for a minute on a laptop, on the installed Python's documentation; numbers without a source are ours."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="causal", causal=dict(middle=dict(rate=0.5, suffix_first=0.5)))  # sections 3.1 and 4.2
    config.model = gpt.gpt2("tiny")
    config.data = dict(length=64, batch=16, tokenizer=dict(kind="unigram", vocab_at_most=1024, add=MARKERS))
    config.optimizer = dict(learning_rate=3e-3, schedule=dict(name="cosine", warmup=0.1))
    config.update(train=dict(steps=200), evaluate=dict(every=100, batches=20), checkpoint=dict(every=100))
    return config


def published(size: str, batch: int, learning_rate: float) -> ml_collections.ConfigDict:
    """Train a size of GPT-3; the paper's models have relative attention besides."""
    config = ml_collections.ConfigDict()
    # Joint training of both orders (section 3.1); rates up to 0.9 cost nothing from left to right (section 4.2).
    config.objective = dict(name="causal", causal=dict(middle=dict(rate=0.5, suffix_first=0.5)))
    config.model = gpt.gpt3(size)
    config.model.readout.tied = False  # appendix A
    config.model.dtype = "bfloat16"
    config.model.stack.remat = "full"
    # With the markers, 50,304 ids: GPT-2's 50,257 rounded up to a multiple of 128.
    config.data = dict(
        length=2048, batch=batch, validation=0.001, tokenizer=dict(kind="bpe", vocab=50_301, add=MARKERS)
    )
    # Brown et al. 2020 (arXiv:2005.14165), appendix B: warmup over 375 million tokens, cosine decay to a tenth.
    schedule = dict(name="cosine", warmup=375_000_000 // (batch * 2048), final=0.1)
    config.optimizer = dict(learning_rate=learning_rate, schedule=schedule)
    config.train = dict(steps=100_000_000_000 // (batch * 2048))  # 100 billion tokens
    config.update(mesh=dict(data=1, fsdp=-1), evaluate=dict(every=1000, batches=50), checkpoint=dict(every=1000))
    return config


VARIANTS = {
    "tiny": tiny,
    # Batches and learning rates: table 3 (appendix A); those of its three largest models are twice GPT-3's.
    "125m": lambda: published("125m", batch=256, learning_rate=6e-4),
    "1.3b": lambda: published("1.3b", batch=512, learning_rate=4e-4),
    "6.7b": lambda: published("6.7b", batch=1024, learning_rate=2.4e-4),
}
