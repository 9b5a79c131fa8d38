"""LLaMA: decoders with rotary positions, RMS norm, SwiGLU and, in LLaMA 2 70B, grouped queries.

Paper:    Touvron et al. 2023, "LLaMA: Open and efficient foundation language models" (arXiv:2302.13971); for 2-70b
          "Llama 2: Open foundation and fine-tuned chat models" (arXiv:2307.09288); for 3-8b and 3-70b
          Grattafiori et al. 2024, "The Llama 3 herd of models" (arXiv:2407.21783).
Hardware: two CPU cores for tiny, a TPU v5p-128 for 7b.
Command:  lm-jax train --config=llama:tiny --workdir=/tmp/llama
          lm-jax train --config=llama:7b --config.data.path='corpus/*.jsonl.zst' --workdir=/mnt/bucket/llama
Expected: tiny: val/loss 4.90 nats per token, 2.73 bits per byte; published sizes: not measured.
"""

import ml_collections

from lm_jax.models.presets import llama


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    """Return the recipe of a variant."""
    return VARIANTS[variant]()


def tiny() -> ml_collections.ConfigDict:
    """Train for a minute on a laptop, on the documentation of the installed Python; all numbers are ours."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="causal")
    config.model = llama.llama("tiny")
    config.data = dict(length=64, batch=16, tokenizer=dict(kind="bpe", vocab_at_most=1024))
    config.optimizer = dict(learning_rate=3e-3, schedule=dict(name="cosine", warmup=0.1))
    config.update(train=dict(steps=200), evaluate=dict(every=100, batches=20), checkpoint=dict(every=100))
    return config


def published(size: str, length: int, learning_rate: float, steps: int) -> ml_collections.ConfigDict:
    """Train a published size on batches of four million tokens."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="causal")
    config.model = llama.llama(size)
    config.model.dtype = "bfloat16"
    config.model.stack.remat = "full"
    config.data = dict(
        length=length,
        batch=4_194_304 // length,  # LLaMA, table 2; Llama 2, table 1
        validation=0.001,
        tokenizer=dict(kind="bpe", vocab=32_000),  # the released tokenizer
    )
    # LLaMA, section 2.3: cosine to a tenth, 2,000 steps of warmup; its betas and weight decay are the defaults.
    config.optimizer = dict(learning_rate=learning_rate, schedule=dict(name="cosine", warmup=2000, final=0.1))
    config.train = dict(steps=steps)
    config.update(mesh=dict(data=1, fsdp=-1), evaluate=dict(every=5000, batches=20), checkpoint=dict(every=1000))
    return config


def third(size: str, learning_rate: float) -> ml_collections.ConfigDict:
    """Train a size of Llama 3 on packed documents that do not see each other."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="causal", causal=dict(documents=True))  # section 3.2
    config.conventions = dict(prefix=(2,))  # [BOS] of tokenizers trained here, before every document
    config.model = llama.llama(size)
    config.model.dtype = "bfloat16"
    config.model.stack.remat = "full"
    # Section 3.4.1: batches of 8M tokens. The paper begins with 4M, in rows of 4,096 tokens, and ends with 16M.
    config.data = dict(length=8192, batch=1024, validation=0.001, tokenizer=dict(kind="bpe", vocab=128_256))
    # Section 3.4.1, for 405B: 8,000 steps of warmup, then cosine to a hundredth over 1,200,000.
    config.optimizer = dict(learning_rate=learning_rate, schedule=dict(name="cosine", warmup=8000, final=0.01))
    config.train = dict(steps=1_200_000)
    config.update(mesh=dict(data=1, fsdp=-1), evaluate=dict(every=5000, batches=20), checkpoint=dict(every=1000))
    return config


VARIANTS = {
    "tiny": tiny,
    # LLaMA, table 2: 1.0T tokens to 13B, then 1.4T. Llama 2, table 1: 2.0T tokens, context 4,096.
    "7b": lambda: published("7b", length=2048, learning_rate=3e-4, steps=250_000),
    "13b": lambda: published("13b", length=2048, learning_rate=3e-4, steps=250_000),
    "33b": lambda: published("33b", length=2048, learning_rate=1.5e-4, steps=350_000),
    "65b": lambda: published("65b", length=2048, learning_rate=1.5e-4, steps=350_000),
    "2-70b": lambda: published("2-70b", length=4096, learning_rate=1.5e-4, steps=500_000),
    # Llama 3, table 3.
    "3-8b": lambda: third("3-8b", learning_rate=3e-4),
    "3-70b": lambda: third("3-70b", learning_rate=1.5e-4),
}
