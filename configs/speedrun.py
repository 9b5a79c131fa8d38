"""Tiny Shakespeare by character: nanoGPT's CPU setting, and the same loss after an eighth of its characters.

Paper:    nanoGPT's README, "I only have a macbook", and its config/train_shakespeare_char.py; docs/speedrun.md lists
          the changes from there to the record.
Hardware: one CPU core.
Command:  lm-jax train --config=speedrun:record --config.data.path=input.txt --workdir=/tmp/speedrun
          lm-jax train --config=speedrun:nanogpt --config.data.path=input.txt --workdir=/tmp/nanogpt
Expected: val/loss, nats per character: nanogpt 1.811 after 1,536,000 characters, record 1.808 after 192,000
          (docs/claims.md).
"""

import ml_collections

from lm_jax.models.presets import gpt


def get_config(variant: str = "record") -> ml_collections.ConfigDict:
    """Return the recipe of a variant."""
    return VARIANTS[variant]()


def nanogpt() -> ml_collections.ConfigDict:
    """Train with nanoGPT's CPU setting, except for its peak learning rate of 1e-3."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="causal")
    config.model = _model()
    config.data = dict(length=64, batch=12, validation=0.1, tokenizer=dict(kind="characters", vocab_at_most=256))
    config.optimizer = dict(
        learning_rate=2e-3,  # ours; 1e-3 reaches 1.903
        schedule=dict(name="cosine", warmup=0.05, final=0.1),  # 100 of 2,000 steps; to a tenth
        adamw=dict(b2=0.99, weight_decay=0.1),
    )
    config.update(train=dict(steps=2000), evaluate=dict(every=500), checkpoint=dict(every=500))
    return config


def record() -> ml_collections.ConfigDict:
    """Reach the lowest validation loss after 192,000 characters; docs/speedrun.md measures each choice."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="causal")
    config.model = _model()
    config.model.embed.positions = "none"
    block = config.model.stack.block
    block.attention.update(position="rotary", qk_norm=True, convolution=4, bias=False, out_bias=False)
    block.feedforward.update(activation="squared_relu", bias=False, convolution=4)
    block.norm.update(name="rms", bias=False)
    config.model.norm.update(name="rms", bias=False)
    config.data = dict(length=64, batch=3, validation=0.1, tokenizer=dict(kind="characters", vocab_at_most=256))
    config.optimizer = dict(name="muon", learning_rate=7e-3, muon=dict(weight_decay=0.0))
    config.optimizer.schedule = dict(name="linear", warmup=0.01, final=0.0)
    config.update(train=dict(steps=1000), log=dict(every=100), evaluate=dict(every=0), checkpoint=dict(every=0))
    return config


def _model() -> ml_collections.ConfigDict:
    """Return nanoGPT's CPU model: 4 layers, 4 heads, width 128, context 64, no dropout."""
    model = gpt.gpt2("tiny")
    model.embed.update(width=128, max_length=64)
    model.stack.update(depth=4, block=dict(attention=dict(heads=4)))
    return model


VARIANTS = {"record": record, "nanogpt": nanogpt}
