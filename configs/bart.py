"""BART: encoder-decoders that restore texts with masked spans and permuted sentences.

Paper:    Lewis et al. 2020, "BART: Denoising sequence-to-sequence pre-training for natural language generation,
          translation, and comprehension" (arXiv:1910.13461).
Hardware: two CPU cores for tiny, 8 GPUs for base, a TPU v5e-256 or 128 GPUs for large.
Command:  lm-jax train --config=bart:tiny --workdir=/tmp/bart
          lm-jax train --config=bart:base --config.data.path='corpus/*.jsonl.zst' --workdir=/mnt/bucket/bart
Expected: tiny: val/loss 5.23 nats per target token; published sizes: not measured.
"""

import ml_collections

from lm_jax.models.presets import bart

# [BOS] and [EOS] of a tokenizer that is trained here. As in the release, they begin and end the source and the target,
# and the decoder starts with [EOS].
CONVENTIONS = dict(prefix=(2,), suffix=(3,), start=3)
# Section 5.1: 30 % of the tokens in spans of Poisson lengths, mean 3 (section 2.2), and all sentences permuted.
OBJECTIVE = dict(name="denoise", denoise=dict(noises=("permute", "infill"), rate=0.3, mean_span=3.0))


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    """Return the recipe of a variant."""
    return VARIANTS[variant]()


def tiny() -> ml_collections.ConfigDict:
    """Train for a minute on a laptop, on the documentation of the installed Python; unsourced numbers are ours."""
    config = ml_collections.ConfigDict()
    config.update(objective=OBJECTIVE, conventions=CONVENTIONS)
    config.model = bart.bart("tiny")
    # A small model on little text underfits: dropout would only slow it down.
    config.model.embed.dropout = 0.0
    config.model.encoder.block.update(dropout=0.0, attention=dict(dropout=0.0))
    config.model.decoder.block.update(dropout=0.0, attention=dict(dropout=0.0), cross=dict(dropout=0.0))
    config.data = dict(length=64, batch=16, tokenizer=dict(kind="bpe", vocab_at_most=1024))
    config.optimizer = dict(learning_rate=2e-3, schedule=dict(name="linear", warmup=0.1, final=0.0))
    config.update(train=dict(steps=200), evaluate=dict(every=100, batches=20), checkpoint=dict(every=100))
    return config


def published(size: str, learning_rate: float, warmup: int) -> ml_collections.ConfigDict:
    """Train a published size with the settings of the large model, and those of RoBERTa that the paper does not give.

    The paper's model has no dropout in the last 10 % of the steps (section 5.1); here it has.
    """
    config = ml_collections.ConfigDict()
    config.update(objective=OBJECTIVE, conventions=CONVENTIONS)
    config.model = bart.bart(size)  # section 2.1
    config.model.dtype = "bfloat16"
    config.data = dict(
        length=512,  # RoBERTa (arXiv:1907.11692), section 3.1
        batch=8000,  # section 5.1
        validation=0.005,
        tokenizer=dict(kind="byte_bpe", vocab=50_265),  # section 5.1: GPT-2's kind; size: the release
    )
    config.optimizer = dict(
        learning_rate=learning_rate,  # RoBERTa, table 9
        schedule=dict(name="linear", warmup=warmup, final=0.0),  # RoBERTa, table 9
        adamw=dict(b2=0.98, epsilon=1e-6, weight_decay=0.01),  # RoBERTa, table 9
        clip=0.0,  # RoBERTa, table 9
    )
    config.train = dict(steps=500_000)  # section 5.1
    config.update(mesh=dict(data=1, fsdp=-1), evaluate=dict(every=5000, batches=50), checkpoint=dict(every=5000))
    return config


VARIANTS = {
    "tiny": tiny,
    "base": lambda: published("base", learning_rate=6e-4, warmup=24_000),
    "large": lambda: published("large", learning_rate=4e-4, warmup=30_000),
}
