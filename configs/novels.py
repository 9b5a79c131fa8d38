"""A decoder, an encoder and an encoder-decoder of English novels, each better than an interpolated bigram.

Paper:    the objectives of GPT-2, BERT and T5; the settings are ours, for two cores and a few megabytes of prose.
Hardware: two CPU cores; 6 minutes for gpt, 22 for bert, 40 for t5.
Command:  lm-jax train --config=novels:gpt --config.data.path=novels.jsonl.xz --workdir=/tmp/novels
Expected: nats per predicted token, model and bigram: gpt 2.80 and 3.54, bert 1.96 and 3.53, t5 2.97 and 3.54
          (docs/claims.md).
"""

import ml_collections

from lm_jax.models.presets import bert, gpt, t5

TOKENIZER = dict(kind="unigram", vocab_at_most=512, sentinels=16)


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
    config.optimizer = dict(learning_rate=3e-3, schedule=dict(name="cosine", warmup=0.05))
    config.update(train=dict(steps=2000), log=dict(every=100))
    config.update(evaluate=dict(every=500, batches=50), checkpoint=dict(every=500))
    return config


def encoder() -> ml_collections.ConfigDict:
    """Train on masked tokens without sentence pairs: a model that memorises these few pairs learns little else."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="masked", masked=dict(rate=0.15, next_sentence=False))
    config.model = bert.bert("tiny")
    config.model.embed.update(width=128, dropout=0.0, positions="none")
    # With rotary positions, attending to a masked token's neighbours takes hundreds of steps to learn, not thousands.
    attention = dict(heads=4, dropout=0.0, position="rotary")
    config.model.stack.update(depth=4, block=dict(dropout=0.0, attention=attention))
    config.data = dict(length=64, batch=32, tokenizer=TOKENIZER)
    config.optimizer = dict(name="muon", learning_rate=1e-2, schedule=dict(name="linear", warmup=100 / 3000, final=0.0))
    config.update(train=dict(steps=3000), log=dict(every=100))
    config.update(evaluate=dict(every=1000, batches=50), checkpoint=dict(every=1000))
    return config


def encoder_decoder() -> ml_collections.ConfigDict:
    """Train on span corruption with the highest rate and the longest spans that T5 tried."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="span", span=dict(rate=0.5, mean_span=10.0))  # Raffel et al. 2020, tables 6 and 7
    config.model = t5.t5("tiny")
    config.model.embed.width = 128
    for side in (config.model.encoder, config.model.decoder):
        side.update(depth=3, block=dict(feedforward=dict(width=256), attention=dict(heads=4)))
    config.model.decoder.block.cross.heads = 4
    config.data = dict(length=96, batch=16, tokenizer=TOKENIZER)
    config.optimizer = dict(name="muon", learning_rate=1e-2, schedule=dict(name="linear", warmup=0.02, final=0.0))
    # Relative biases are added to the scores unscaled: at the common rate they take thousands of steps to grow.
    config.optimizer.multipliers = (dict(pattern="relative", factor=5.0),)
    config.update(train=dict(steps=5000), log=dict(every=100))
    config.update(evaluate=dict(every=500, batches=50), checkpoint=dict(every=500))
    return config


VARIANTS = {"gpt": decoder, "bert": encoder, "t5": encoder_decoder}
