"""Translation: a text in another language.

Paper:    Vaswani et al. 2017 (arXiv:1706.03762).
Hardware: two CPU cores, or one accelerator.
Command:  lm-jax train --config=translate:multi30k --config.data.columns.source.path=train.en.gz \
              --config.data.columns.target.path=train.de.gz --config.data.columns.source.dev=val.en.gz \
              --config.data.columns.target.dev=val.de.gz --workdir=/tmp/translate
Expected: multi30k: BLEU 35.5 on test_2016_flickr after 3,400 steps (docs/claims.md).
"""

import ml_collections

from lm_jax.data import tasks
from lm_jax.models.presets import t5, transformer


def get_config(variant: str = "table") -> ml_collections.ConfigDict:
    """Return the recipe of a variant; all but tiny and multi30k tune the model of --fork."""
    return ml_collections.ConfigDict(VARIANTS[variant]())


def tiny() -> ml_collections.ConfigDict:
    """Train a small encoder-decoder from nothing on a table of your own; all numbers are ours."""
    config = ml_collections.ConfigDict(tasks.scratch("translation"))
    config.model = t5.t5("tiny")
    return config


def multi30k() -> ml_collections.ConfigDict:
    """Train a small Transformer from nothing on captions (Elliott et al. 2016, arXiv:1605.00459); numbers are ours."""
    config = ml_collections.ConfigDict(tasks.scratch("translation"))
    config.model = transformer.transformer("tiny")
    config.model.embed.width = 256
    for side in (config.model.encoder, config.model.decoder):
        side.depth = 3
        side.block.attention.heads = 4
        side.block.feedforward.width = 512
    config.model.decoder.block.cross.heads = 4
    config.model.init.update(embed_stddev=256**-0.5, attention_gain=2**-0.5)
    config.data.update(length=48, batch=64, buckets=(12, 16, 20, 24, 32), rows=dict(window=50))
    config.data.tokenizer = dict(kind="bpe", vocab_at_most=6144)
    config.optimizer = dict(learning_rate=1e-3, schedule=dict(name="linear", warmup=0.1, final=0.0))
    config.optimizer.adamw = dict(b2=0.98, epsilon=1e-9, weight_decay=0.0)  # Vaswani et al. 2017, section 5.3
    config.train.steps = 3400
    config.evaluate = dict(every=3400, best="loss")
    config.task.generated = 200
    return config


VARIANTS = {
    "tiny": tiny,
    "table": lambda: tasks.tuning("translation"),
    "multi30k": multi30k,
}
