"""MC-BERT: encoders trained to choose each token's original among candidates of a small generator, or to reject them.

Paper:    Xu et al. 2020, "MC-BERT: Efficient language pre-training via a meta controller" (arXiv:2006.05744).
Hardware: two CPU cores for tiny, a TPU v5e-16 or 8 GPUs for base.
Command:  lm-jax train --config=mcbert:tiny --workdir=/tmp/mcbert
          lm-jax train --config=mcbert:base --config.data.path='corpus/*.jsonl.zst' --workdir=/mnt/bucket/mcbert
Expected: tiny: val/loss 40.1, val/generator_loss 5.42 nats, val/choice_loss 0.693: little less than the 0.703 of an
          answer without reading, because 14 % of the tokens are replaced; published sizes: not measured.
"""

import ml_collections

from lm_jax.models.presets import bert


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    """Return the recipe of a variant."""
    return VARIANTS[variant]()


def tiny() -> ml_collections.ConfigDict:
    """Train for a minute on a laptop, on the documentation of the installed Python; all numbers are ours."""
    config = ml_collections.ConfigDict()
    config.objective = dict(name="substituted", substituted=dict(rate=0.15, candidates=10))
    config.model = bert.bert("tiny")
    config.model.pair_classes = 0
    config.models = dict(generator=bert.electra_generator("tiny"))
    config.models.generator.embed.factor = config.model.embed.width
    # Small models on little text underfit: dropout would only slow them down.
    config.model.embed.dropout = config.models.generator.embed.dropout = 0.0
    config.model.stack.block.update(dropout=0.0, attention=dict(dropout=0.0))
    config.models.generator.stack.block.update(dropout=0.0, attention=dict(dropout=0.0))
    config.data = dict(length=64, batch=16, tokenizer=dict(kind="unigram", vocab_at_most=1024))
    config.optimizer = dict(learning_rate=2e-3, schedule=dict(name="linear", warmup=0.1, final=0.0))
    config.update(train=dict(steps=200), evaluate=dict(every=100, batches=20), checkpoint=dict(every=100))
    return config


def base() -> ml_collections.ConfigDict:
    """Train the base size; numbers are from the authors' released command (github.com/MC-BERT/MC-BERT, README)."""
    config = ml_collections.ConfigDict()
    config.objective = dict(
        name="substituted",
        substituted=dict(
            rate=0.15,  # --mask-prob
            mask=1.0,  # the default of their task: no token is left or drawn at random
            candidates=10,  # --class-num
            weight=50.0,  # --loss-lamda
            share="token",  # their model: the token table and the bias of the logits
        ),
    )
    config.model = bert.bert("base")
    config.model.pair_classes = 0
    config.models = dict(generator=bert.electra_generator("base"))  # --mc-size-divider 3: width 256, 4 heads
    config.model.dtype = config.models.generator.dtype = "bfloat16"
    config.data = dict(
        length=512,  # --tokens-per-sample
        batch=256,  # --max-sentences 8, --update-freq 4, 8 devices
        validation=0.005,
        tokenizer=dict(kind="unigram", vocab=32_768),  # the name of their data: wiki_book_32768
    )
    config.optimizer = dict(
        learning_rate=1e-4,  # --lr
        schedule=dict(name="linear", warmup=10_000, final=0.0),  # --lr-scheduler polynomial_decay, --warmup-updates
        adamw=dict(b2=0.98, epsilon=1e-6, weight_decay=0.01),  # --adam-betas, --adam-eps, --weight-decay
        clip=0.0,  # --clip-norm
    )
    config.train = dict(steps=1_000_000)  # --max-update
    config.update(mesh=dict(data=1, fsdp=-1), evaluate=dict(every=5000, batches=50), checkpoint=dict(every=5000))
    return config


VARIANTS = {"tiny": tiny, "base": base}
