"""The original Transformer, an encoder-decoder, trained to translate.

Paper:    Vaswani et al. 2017, "Attention is all you need" (arXiv:1706.03762).
Hardware: two CPU cores for tiny and captions, 8 GPUs (section 5.2) for base and big.
Command:  lm-jax train --config=transformer:tiny --workdir=/tmp/transformer
          lm-jax train --config=transformer:captions --config.data.columns.source.path=train.en.gz,val.en.gz \
              --config.data.columns.target.path=train.de.gz,val.de.gz --workdir=/tmp/captions
          lm-jax train --config=transformer:base --config.data.columns.source.path='wmt/*.en.gz' \
              --config.data.columns.target.path='wmt/*.de.gz' --workdir=/mnt/bucket/transformer
Expected: nats per target token: tiny: val/loss 4.74; captions: val/loss 3.15 (English to German; a bigram of the
          targets: 3.80); published sizes: not measured.
"""

import ml_collections

from lm_jax.models.presets import transformer


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    """Return the recipe of a variant."""
    return VARIANTS[variant]()


def tiny() -> ml_collections.ConfigDict:
    """Train for a minute on a laptop; all numbers are ours.

    It restores removed spans instead of translating, because it must train on any text: by default the documentation of
    the installed Python, which is in one language.
    """
    config = ml_collections.ConfigDict()
    config.objective = dict(name="span")
    config.model = transformer.transformer("tiny")
    config.data = dict(length=64, batch=16, tokenizer=dict(kind="bpe", vocab_at_most=1024, sentinels=8))
    config.optimizer = dict(learning_rate=1e-3, schedule=dict(name="rsqrt", warmup=0.25))
    config.update(train=dict(steps=200), evaluate=dict(every=100, batches=20), checkpoint=dict(every=100))
    return config


def captions() -> ml_collections.ConfigDict:
    """Translate image captions (Multi30k, Elliott et al. 2016, arXiv:1605.00459); numbers without a source are ours."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="seq2seq", seq2seq=dict(smoothing=0.1))  # section 5.4
    config.model = transformer.transformer("tiny")
    config.model.embed.width = 128
    for side in (config.model.encoder, config.model.decoder):
        side.block.attention.heads = 4
        side.block.feedforward.width = 512
    config.model.decoder.block.cross.heads = 4
    config.data = dict(
        columns=dict(source={}, target={}),
        length=40,  # 99 % of the captions are shorter
        batch=64,
        validation=1014 / 30_014,  # the last 1,014 of 30,014 captions
        tokenizer=dict(kind="bpe", vocab_at_most=4096),
    )
    config.optimizer = dict(
        learning_rate=2e-3,
        schedule=dict(name="rsqrt", warmup=200),
        adamw=dict(b2=0.98, epsilon=1e-9, weight_decay=0.0),  # section 5.3
    )
    config.update(train=dict(steps=900), log=dict(every=50))
    config.update(evaluate=dict(every=300), checkpoint=dict(every=300))
    return config


def published(size: str, steps: int) -> ml_collections.ConfigDict:
    """Train a published size. A row is one sentence pair; its maximum length is ours."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="seq2seq", seq2seq=dict(smoothing=0.1))  # section 5.4
    config.model = transformer.transformer(size)  # table 3
    config.data = dict(
        columns=dict(source={}, target={}),
        length=128,
        batch=896,  # section 5.1: 25,000 tokens on each side, at 28 a sentence
        validation=0.001,
        tokenizer=dict(kind="bpe", vocab=37_000),  # section 5.1: shared by both languages
    )
    config.optimizer = dict(
        learning_rate=(config.model.embed.width * 4000) ** -0.5,  # equation 3 at the end of the warmup
        schedule=dict(name="rsqrt", warmup=4000),  # section 5.3
        adamw=dict(b2=0.98, epsilon=1e-9, weight_decay=0.0),  # section 5.3
        clip=0.0,
    )
    config.train = dict(steps=steps)
    config.update(mesh=dict(data=1, fsdp=-1), evaluate=dict(every=2000, batches=50), checkpoint=dict(every=2000))
    return config


VARIANTS = {
    "tiny": tiny,
    "captions": captions,
    "base": lambda: published("base", steps=100_000),  # section 5.2
    "big": lambda: published("big", steps=300_000),  # section 5.2
}
