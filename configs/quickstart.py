"""A decoder, an encoder and an encoder-decoder of the documentation of the installed Python, in a few minutes.

Paper:    the objectives of GPT-2, BERT and T5; the settings are ours, for two cores and a few minutes.
Hardware: two CPU cores.
Command:  make quickstart, which trains all three and scores them on held-out documents (launch/quickstart.py)
          lm-jax train --config=quickstart:gpt --workdir=/tmp/quickstart
Expected: gpt 1.65 bits per byte, bert val/masked_accuracy 0.35, t5 val/loss 2.01 nats per target token; 241 s in all.
"""

import ml_collections

from lm_jax.models.presets import bert, gpt, t5

SCHEDULE = dict(name="linear", warmup=0.05, final=0.0)
# Three of Muon's five iterations: the step of a small model gains more time by that than its loss suffers.
MUON = dict(name="muon", learning_rate=1e-2, schedule=SCHEDULE, muon=dict(iterations=3))
# Short pieces are easier to guess than long ones, and BPE has few that are a space alone.
PIECES = dict(kind="bpe", vocab_at_most=1024)
# In this documentation, line breaks carry no meaning: "flow" replaces them with spaces.
CLEAN = dict(steps=("line_breaks", "repair", "compose", "controls", "flow"))


def get_config(variant: str = "gpt") -> ml_collections.ConfigDict:
    """Return the recipe of a variant."""
    return VARIANTS[variant]()


def decoder() -> ml_collections.ConfigDict:
    """Train on the next token, with the rotary positions and the convolutions of speedrun:record.

    All three models have single layers: in a minute, they learn more than deeper ones, which take fewer steps.
    """
    config = ml_collections.ConfigDict()
    config.objective = dict(name="causal")
    config.model = gpt.gpt2("tiny")
    config.model.embed.update(width=128, max_length=128, positions="none")
    config.model.stack.depth = 1
    block = config.model.stack.block
    block.attention.update(heads=4, position="rotary", convolution=4)
    block.feedforward.update(convolution=4)
    config.data = dict(length=128, batch=16, tokenizer=dict(kind="unigram", vocab_at_most=2048), clean=CLEAN)
    config.optimizer = MUON
    config.update(train=dict(steps=400), evaluate=dict(every=400, batches=20), checkpoint=dict(every=400))
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
    config.model.stack.update(depth=1, block=dict(dropout=0.0, attention=attention, neighbours=dict(width=5)))
    config.data = dict(length=48, batch=40, tokenizer=PIECES, clean=CLEAN)
    config.optimizer = MUON
    config.update(train=dict(steps=1000), evaluate=dict(every=1000, batches=20), checkpoint=dict(every=1000))
    return config


def encoder_decoder() -> ml_collections.ConfigDict:
    """Train T5's architecture on BART's infilling, whose targets are whole texts: that takes fewer steps than T5's.

    The decoder first learns to copy its source, for which both sides need to know positions, and then to fill gaps.
    """
    config = ml_collections.ConfigDict()
    config.objective = dict(name="denoise", denoise=dict(noises=("infill",), rate=0.5))
    config.model = t5.t5("tiny")
    config.model.embed.update(width=128, positions="sinusoidal")
    for side in (config.model.encoder, config.model.decoder):
        side.depth = 1
        side.block.feedforward.width = 256
        side.block.attention.update(heads=4, position="rotary")
    config.model.encoder.block.neighbours = dict(width=3)
    config.model.decoder.block.attention.convolution = 4
    config.model.decoder.block.feedforward.convolution = 4
    config.model.decoder.block.cross.heads = 1
    # With rows no longer than a sentence, the decoder finds its place in the source sooner.
    config.data = dict(length=48, batch=32, tokenizer=PIECES, clean=CLEAN)
    config.optimizer = MUON
    config.update(train=dict(steps=900), evaluate=dict(every=900, batches=20), checkpoint=dict(every=900))
    return config


VARIANTS = {"gpt": decoder, "bert": encoder, "t5": encoder_decoder}
