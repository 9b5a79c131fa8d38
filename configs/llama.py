"""Decoders with rotary positions, RMS norm, SwiGLU and grouped queries: LLaMA (Touvron et al. 2023, arXiv:2302.13971).

lm-jax train --config=llama:tiny --workdir=/tmp/llama            a minute on a laptop, Python's own documentation
lm-jax train --config=llama:7b --config.data.path='corpus/*.jsonl.zst' --workdir=/mnt/bucket/llama
    LLaMA 7B, batches of four million tokens (table 2); a TPU v5p-128
"""

import ml_collections

from lm_jax.models.presets import llama

VARIANTS = ("tiny", "7b", "13b", "33b", "65b", "2-70b")


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    """The recipe of a variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r} of llama; known: {', '.join(VARIANTS)}")
    config = ml_collections.ConfigDict()
    config.objective = dict(name="causal")
    config.model = llama.llama(variant)
    if variant == "tiny":
        config.data = dict(length=64, batch=16, tokenizer=dict(kind="bpe", vocab_at_most=1024))
        config.optimizer = dict(learning_rate=3e-3, schedule=dict(name="cosine", warmup=0.1))
        config.train = dict(steps=200)
        config.evaluate = dict(every=100, batches=20)
        config.checkpoint = dict(every=100)
        return config
    length = 4096 if variant.startswith("2-") else 2048
    config.model.dtype = "bfloat16"
    config.model.stack.remat = "full"
    config.data = dict(
        length=length, batch=4_194_304 // length, validation=0.001, tokenizer=dict(kind="bpe", vocab=32_000)
    )
    # Table 2, section 2.3: 3e-4 to 13B, then 1.5e-4; cosine to a tenth, warmup 2,000, betas 0.9, 0.95, decay 0.1.
    config.optimizer = dict(
        learning_rate=3e-4 if variant in ("7b", "13b") else 1.5e-4, schedule=dict(name="cosine", warmup=2000, final=0.1)
    )
    config.train = dict(steps=250_000 if variant in ("7b", "13b") else 350_000)
    config.mesh = dict(data=1, fsdp=-1)
    config.evaluate = dict(every=5000, batches=20)
    config.checkpoint = dict(every=1000)
    return config
