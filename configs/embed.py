"""Sentence embeddings: vectors whose cosine says how similar two texts are.

Paper:    Reimers and Gurevych 2019 (arXiv:1908.10084); Gao et al. 2021 (arXiv:2104.08821), in-batch negatives.
Hardware: two CPU cores, or one accelerator.
Command:  lm-jax train --config=embed:pairs --fork=MODEL --config.data.path=train.tsv \
              --config.data.dev=dev.tsv --workdir=/tmp/embed
Expected: docs/tasks/embed.md has the measured results.
"""

import ml_collections

from lm_jax.data import tasks
from lm_jax.models.presets import bert


def get_config(variant: str = "pairs") -> ml_collections.ConfigDict:
    """Return the recipe of a variant; all but tiny tune the model of --fork."""
    return ml_collections.ConfigDict(VARIANTS[variant]())


def tiny() -> ml_collections.ConfigDict:
    """Train a small encoder from nothing on a table of pairs; all numbers are ours."""
    config = ml_collections.ConfigDict(tasks.scratch("together"))
    config.model = bert.bert("tiny")
    return config


VARIANTS = {
    "tiny": tiny,
    "pairs": lambda: tasks.tuning("together"),
    "scores": lambda: tasks.tuning("similarity"),
}
