"""A decoder and an encoder of Chinese.

Paper:    the objectives of GPT-2 and BERT; the settings are ours, for two cores and a few megabytes of modern prose.
Hardware: two CPU cores; 11 CPU minutes for gpt, 21 for bert.
Command:  lm-jax train --config=chinese:gpt --config.data.path=pairs.tsv.xz --config.data.field=modern \
              --config.data.group=book --workdir=/tmp/chinese
Expected: nats per token of model, bigram and unigram: gpt 5.22, 5.61, 6.85; bert 5.12, 5.71, 6.86 (docs/claims.md);
          wwm 5.09, and 6.26 from a visible left neighbour or else the frequencies.

wwm masks whole words (Cui et al. 2021, arXiv:1906.08101), which needs `pip install 'lm_jax[chinese]'`.
"""

import ml_collections

from lm_jax.models.presets import bert, gpt

# 3,150 characters cover 99.5 % of the text; the tokenizer spells all others in bytes.
TOKENIZER = dict(kind="unigram", vocab_at_most=4096, character_coverage=0.995, sample_bytes=4_000_000)


def get_config(variant: str = "gpt") -> ml_collections.ConfigDict:
    """Return the recipe of a variant."""
    return VARIANTS[variant]()


def decoder() -> ml_collections.ConfigDict:
    """Train nanoGPT's CPU model, with twice its context, on the next token."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="causal")
    config.model = gpt.gpt2("tiny")
    config.model.embed.update(width=128, max_length=128)
    config.model.stack.update(depth=4, block=dict(attention=dict(heads=4)))
    config.data = dict(length=128, batch=16, tokenizer=TOKENIZER)
    config.optimizer = dict(learning_rate=3e-3, schedule=dict(name="cosine", warmup=100 / 1800))
    config.update(train=dict(steps=1800), log=dict(every=100))
    config.update(evaluate=dict(every=600, batches=50), checkpoint=dict(every=600))
    return config


def encoder() -> ml_collections.ConfigDict:
    """Train the encoder of novels:bert, with its rotary positions, on masked tokens without sentence pairs."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="masked", masked=dict(rate=0.15, next_sentence=False))
    config.model = bert.bert("tiny")
    config.model.embed.update(width=128, dropout=0.0, positions="none")
    attention = dict(heads=4, dropout=0.0, position="rotary")
    config.model.stack.update(depth=4, block=dict(dropout=0.0, attention=attention))
    config.data = dict(length=64, batch=32, tokenizer=TOKENIZER)
    config.optimizer = dict(name="muon", learning_rate=1e-2, schedule=dict(name="linear", warmup=100 / 3000, final=0.0))
    config.update(train=dict(steps=3000), log=dict(every=100))
    config.update(evaluate=dict(every=1000, batches=50), checkpoint=dict(every=1000))
    return config


def whole_words() -> ml_collections.ConfigDict:
    """Train the encoder on whole Chinese words, whose other characters no longer give a masked one away."""
    config = encoder()
    config.objective.masked.choose = dict(unit="word", words="rjieba")
    return config


VARIANTS = {"gpt": decoder, "bert": encoder, "wwm": whole_words}
