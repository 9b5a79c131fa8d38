"""A decoder and an encoder of Chinese.

Paper:    the objectives of GPT-2 and BERT; the settings are ours, for two cores and a few megabytes of modern prose.
Hardware: two CPU cores; 11 CPU minutes for gpt, 21 for bert.
Command:  lm-jax train --config=chinese:gpt --config.data.path=pairs.tsv.xz --config.data.field=modern \
              --config.data.group=book --workdir=/tmp/chinese
Expected: nats a token of model, bigram and unigram: gpt 5.23, 5.62, 6.85; bert 5.12, 5.71, 6.86 (docs/claims.md).
"""

import ml_collections

from lm_jax.models.presets import bert, gpt

# 3,150 characters cover 99.5 % of the text; the others are spelled in bytes.
TOKENIZER = dict(kind="unigram", vocab_at_most=4096, character_coverage=0.995, sample_bytes=4_000_000)


def get_config(variant: str = "gpt") -> ml_collections.ConfigDict:
    """Return the recipe of a variant."""
    return VARIANTS[variant]()


def decoder() -> ml_collections.ConfigDict:
    """Next token, nanoGPT's CPU model at twice its length."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="causal")
    config.model = gpt.gpt2("tiny")
    config.model.embed.update(width=128, max_length=128)
    config.model.stack.depth = 4
    config.model.stack.block.attention.heads = 4
    config.data = dict(length=128, batch=16, tokenizer=TOKENIZER)
    config.optimizer = dict(learning_rate=3e-3, schedule=dict(name="cosine", warmup=100 / 1800))
    config.train = dict(steps=1800)
    config.log = dict(every=100)
    config.evaluate = dict(every=600, batches=50)
    config.checkpoint = dict(every=600)
    return config


def encoder() -> ml_collections.ConfigDict:
    """Masked tokens without sentence pairs; the model and its positions are those of novels:bert."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="masked", masked=dict(rate=0.15, next_sentence=False))
    config.model = bert.bert("tiny")
    config.model.embed.update(width=128, dropout=0.0, positions="none")
    config.model.stack.depth = 4
    config.model.stack.block.dropout = 0.0
    config.model.stack.block.attention.update(heads=4, dropout=0.0, position="rotary")
    config.data = dict(length=64, batch=32, tokenizer=TOKENIZER)
    config.optimizer = dict(name="muon", learning_rate=1e-2, schedule=dict(name="linear", warmup=100 / 3000, final=0.0))
    config.train = dict(steps=3000)
    config.log = dict(every=100)
    config.evaluate = dict(every=1000, batches=50)
    config.checkpoint = dict(every=1000)
    return config


VARIANTS = {"gpt": decoder, "bert": encoder}
