"""A decoder, an encoder and an encoder-decoder of the documentation of the installed Python, in a few minutes.

Paper:    the objectives of GPT-2, BERT and T5; the settings are ours, for two cores and five minutes.
Hardware: two CPU cores.
Command:  make quickstart, which trains all three and generates text with each (launch/quickstart.sh)
          lm-jax train --config=quickstart:gpt --workdir=/tmp/quickstart
Expected: gpt 2.04 bits per byte, bert val/masked_accuracy 0.10, t5 val/loss 5.05 nats per target token; 327 s.
"""

import ml_collections

from lm_jax.models.presets import bert, gpt, t5

TOKENIZER = dict(kind="unigram", vocab_at_most=2048, sentinels=16)
# In this documentation, line breaks carry no meaning: "flow" replaces them with spaces.
CLEAN = dict(steps=("line_breaks", "repair", "compose", "controls", "flow"))


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
    config.data = dict(length=128, batch=16, tokenizer=TOKENIZER, clean=CLEAN)
    config.optimizer = dict(name="muon", learning_rate=1e-2, schedule=dict(name="linear", warmup=20 / 150, final=0.0))
    config.update(train=dict(steps=150), evaluate=dict(every=100, batches=10), checkpoint=dict(every=150))
    return config


def encoder() -> ml_collections.ConfigDict:
    """Train the encoder of novels:bert, with its rotary positions, on masked tokens and next sentences."""
    config = ml_collections.ConfigDict()
    # Twice BERT's masking rate: a short run predicts few masked tokens.
    config.objective = dict(name="masked", masked=dict(rate=0.3, next_sentence=True))
    config.model = bert.bert("tiny")
    config.model.embed.update(width=128, dropout=0.0, positions="none")
    attention = dict(heads=4, dropout=0.0, position="rotary")
    config.model.stack.update(depth=4, block=dict(dropout=0.0, attention=attention))
    config.data = dict(length=64, batch=32, tokenizer=TOKENIZER, clean=CLEAN)
    config.optimizer = dict(name="muon", learning_rate=1e-2, schedule=dict(name="linear", warmup=20 / 240, final=0.0))
    config.update(train=dict(steps=240), evaluate=dict(every=150, batches=10), checkpoint=dict(every=150))
    return config


def encoder_decoder() -> ml_collections.ConfigDict:
    """Train the encoder-decoder of novels:t5 with its objective and its learning rates."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="span", span=dict(rate=0.5, mean_span=10.0))
    config.model = t5.t5("tiny")
    config.model.embed.width = 128
    for side in (config.model.encoder, config.model.decoder):
        side.update(depth=3, block=dict(feedforward=dict(width=256), attention=dict(heads=4)))
    config.model.decoder.block.cross.heads = 4
    config.data = dict(length=96, batch=16, tokenizer=TOKENIZER, clean=CLEAN)
    config.optimizer = dict(name="muon", learning_rate=1e-2, schedule=dict(name="linear", warmup=20 / 150, final=0.0))
    config.optimizer.multipliers = (dict(pattern="relative", factor=5.0),)
    config.update(train=dict(steps=150), log=dict(every=10))
    config.update(evaluate=dict(every=100, batches=10), checkpoint=dict(every=150))
    return config


VARIANTS = {"gpt": decoder, "bert": encoder, "t5": encoder_decoder}
