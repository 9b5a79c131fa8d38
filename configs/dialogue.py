"""Dialogue: a response to what was said.

Paper:    Li et al. 2017 (arXiv:1710.03957), DailyDialog; Vinyals and Le 2015 (arXiv:1506.05869).
Hardware: two CPU cores, or one accelerator.
Command:  lm-jax train --config=dialogue:dailydialog --fork=MODEL --config.data.path=pairs.tsv \
              --config.data.validation=0.1 --workdir=/tmp/dialogue
Expected: perplexity 35.6 of a decoder of 1.3 million parameters that read only novels before (docs/claims.md).
"""

import ml_collections

from lm_jax.data import tasks
from lm_jax.models.presets import t5


def get_config(variant: str = "dailydialog") -> ml_collections.ConfigDict:
    """Return the recipe of a variant; all but tiny tune the model of --fork."""
    return ml_collections.ConfigDict(VARIANTS[variant]())


def tiny() -> ml_collections.ConfigDict:
    """Train a small encoder-decoder from nothing on a table of your own; all numbers are ours."""
    config = ml_collections.ConfigDict(tasks.scratch("responses"))
    config.model = t5.t5("tiny")
    return config


VARIANTS = {
    "tiny": tiny,
    "dailydialog": lambda: tasks.tuning("responses"),
}
