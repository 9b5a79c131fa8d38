"""All three kinds on the documentation of the machine's own Python, in a few minutes.

Paper:    the objectives of GPT-2, BERT and T5; the settings are ours, for two cores and five minutes.
Hardware: two CPU cores.
Command:  make quickstart, which trains all three and puts them to use (launch/quickstart.sh)
          lm-jax train --config=quickstart:gpt --workdir=/tmp/quickstart
Expected: QUICKSTART
"""

import ml_collections

from lm_jax.models.presets import bert, gpt, t5

TOKENIZER = dict(kind="unigram", vocab_at_most=2048, sentinels=16)
# Documentation as running prose: its line breaks carry no meaning.
CLEAN = dict(steps=("line_breaks", "repair", "compose", "controls", "flow"))


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
    config.data = dict(length=128, batch=16, tokenizer=TOKENIZER, clean=CLEAN)
    config.optimizer = dict(name="muon", learning_rate=1e-2, schedule=dict(name="linear", warmup=20 / 150, final=0.0))
    config.train = dict(steps=150)
    config.evaluate = dict(every=100, batches=10)
    config.checkpoint = dict(every=150)
    return config


def encoder() -> ml_collections.ConfigDict:
    """Masked tokens and next sentences; the model and its positions are those of novels:bert."""
    config = ml_collections.ConfigDict()
    # Twice BERT's masking rate: there is little time to learn from masked tokens.
    config.objective = dict(name="masked", masked=dict(rate=0.3, next_sentence=True))
    config.model = bert.bert("tiny")
    config.model.embed.update(width=128, dropout=0.0, positions="none")
    config.model.stack.depth = 4
    config.model.stack.block.dropout = 0.0
    config.model.stack.block.attention.update(heads=4, dropout=0.0, position="rotary")
    config.data = dict(length=64, batch=32, tokenizer=TOKENIZER, clean=CLEAN)
    config.optimizer = dict(name="muon", learning_rate=1e-2, schedule=dict(name="linear", warmup=20 / 240, final=0.0))
    config.train = dict(steps=240)
    config.evaluate = dict(every=150, batches=10)
    config.checkpoint = dict(every=150)
    return config


def encoder_decoder() -> ml_collections.ConfigDict:
    """Span corruption; the model, its objective and its learning rates are those of novels:t5."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="span", span=dict(rate=0.5, mean_span=10.0))
    config.model = t5.t5("tiny")
    config.model.embed.width = 128
    for side in (config.model.encoder, config.model.decoder):
        side.depth = 3
        side.block.feedforward.width = 256
        side.block.attention.heads = 4
    config.model.decoder.block.cross.heads = 4
    config.data = dict(length=96, batch=16, tokenizer=TOKENIZER, clean=CLEAN)
    config.optimizer = dict(
        name="muon",
        learning_rate=1e-2,
        schedule=dict(name="linear", warmup=20 / 150, final=0.0),
        multipliers=(dict(pattern="relative", factor=5.0),),
    )
    config.train = dict(steps=150)
    config.log = dict(every=10)
    config.evaluate = dict(every=100, batches=10)
    config.checkpoint = dict(every=150)
    return config


VARIANTS = {"gpt": decoder, "bert": encoder, "t5": encoder_decoder}
