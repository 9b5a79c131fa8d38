"""A decoder, an encoder and an encoder-decoder of the documentation of the installed Python, in a few minutes.

Paper:    the objectives of GPT-2, BERT and T5; the settings are ours, for two cores and a few minutes.
Hardware: two CPU cores.
Command:  make quickstart, which trains all three and scores them on held-out documents (launch/quickstart.py)
          lm-jax train --config=quickstart:gpt --workdir=/tmp/quickstart
Expected: gpt 1.85 bits per byte, bert val/masked_accuracy 0.24, t5 val/loss 2.67 nats per target token; 395 s.
"""

import ml_collections

from lm_jax.models.presets import bert, gpt, t5

# In this documentation, line breaks carry no meaning: "flow" replaces them with spaces.
CLEAN = dict(steps=("line_breaks", "repair", "compose", "controls", "flow"))


def get_config(variant: str = "gpt") -> ml_collections.ConfigDict:
    """Return the recipe of a variant."""
    return VARIANTS[variant]()


def decoder() -> ml_collections.ConfigDict:
    """Train on the next token, with the rotary positions and the convolutions of speedrun:record."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="causal")
    config.model = gpt.gpt2("tiny")
    config.model.embed.update(width=128, max_length=128, positions="none")
    config.model.stack.depth = 4
    block = config.model.stack.block
    block.attention.update(heads=4, position="rotary", convolution=4)
    block.feedforward.update(convolution=4)
    config.data = dict(length=128, batch=16, tokenizer=dict(kind="unigram", vocab_at_most=2048), clean=CLEAN)
    config.optimizer = dict(name="muon", learning_rate=1e-2, schedule=dict(name="linear", warmup=0.05, final=0.0))
    config.update(train=dict(steps=200), evaluate=dict(every=200, batches=20), checkpoint=dict(every=200))
    return config


def encoder() -> ml_collections.ConfigDict:
    """Train an encoder, whose layers also see their neighbours directly, on masked tokens."""
    config = ml_collections.ConfigDict()
    # Twice BERT's masking rate: a short run predicts few masked tokens.
    config.objective = dict(name="masked", masked=dict(rate=0.3, next_sentence=False))
    config.model = bert.bert("tiny")
    config.model.pair_classes = 0
    config.model.embed.update(width=128, dropout=0.0, positions="none")
    attention = dict(heads=4, dropout=0.0, position="rotary")
    config.model.stack.update(depth=4, block=dict(dropout=0.0, attention=attention, neighbours=dict(width=3)))
    config.data = dict(length=64, batch=32, tokenizer=dict(kind="unigram", vocab_at_most=1024), clean=CLEAN)
    config.optimizer = dict(name="muon", learning_rate=1e-2, schedule=dict(name="linear", warmup=0.05, final=0.0))
    config.update(train=dict(steps=400), evaluate=dict(every=400, batches=20), checkpoint=dict(every=400))
    return config


def encoder_decoder() -> ml_collections.ConfigDict:
    """Train T5's architecture on BART's infilling, whose targets are whole texts: that takes fewer steps than T5's.

    The decoder first learns to copy its source, for which both sides need to know positions, and then to fill gaps.
    """
    config = ml_collections.ConfigDict()
    config.objective = dict(name="denoise", denoise=dict(noises=("infill",), rate=0.3))
    config.model = t5.t5("tiny")
    config.model.embed.update(width=128, positions="sinusoidal")
    for side in (config.model.encoder, config.model.decoder):
        side.block.feedforward.width = 256
        side.block.attention.update(heads=4, position="rotary")
    config.model.encoder.block.neighbours = dict(width=3)
    config.model.decoder.block.attention.convolution = 4
    config.model.decoder.block.feedforward.convolution = 4
    config.model.decoder.block.cross.heads = 4
    # BPE has few pieces that are a space alone, which would be the likeliest start of every gap.
    config.data = dict(length=64, batch=24, tokenizer=dict(kind="bpe", vocab_at_most=1024), clean=CLEAN)
    config.optimizer = dict(name="muon", learning_rate=1e-2, schedule=dict(name="linear", warmup=0.05, final=0.0))
    config.update(train=dict(steps=300), evaluate=dict(every=300, batches=20), checkpoint=dict(every=300))
    return config


VARIANTS = {"gpt": decoder, "bert": encoder, "t5": encoder_decoder}
