"""Classification: which label belongs to a text, or which labels?

Paper:    Devlin et al. 2019 (arXiv:1810.04805), sections 4.1 and A.3.
Hardware: two CPU cores, or one accelerator.
Command:  lm-jax train --config=classify:table --fork=MODEL --config.data.path=train.tsv \
              --config.data.dev=dev.tsv --workdir=/tmp/classify
          lm-jax train --config=classify:sst2 --fork=MODEL --config.data.path=train.tsv \
              --config.data.dev=dev.tsv --workdir=/tmp/classify
Expected: docs/tasks/classify.md has the measured results.
"""

import ml_collections

from lm_jax.data import tasks
from lm_jax.models.presets import bert


def get_config(variant: str = "table") -> ml_collections.ConfigDict:
    """Return the recipe of a variant; all but tiny tune the model of --fork."""
    return ml_collections.ConfigDict(VARIANTS[variant]())


def tiny() -> ml_collections.ConfigDict:
    """Train a small encoder from nothing on a table of your own; all numbers are ours."""
    config = ml_collections.ConfigDict(tasks.scratch("table"))
    config.model = bert.bert("tiny")
    return config


VARIANTS = {
    "tiny": tiny,
    "table": lambda: tasks.tuning("table"),
    "labels": lambda: tasks.tuning("several"),
    "number": lambda: tasks.tuning("rating"),
    "sst2": lambda: tasks.tuning("sst2"),
    "cola": lambda: tasks.tuning("cola"),
    "trec": lambda: tasks.tuning("trec"),
    "snips": lambda: tasks.tuning("snips_intent", learning_rate=1e-4),
    "chnsenticorp": lambda: tasks.tuning("chnsenticorp"),
    "thucnews": lambda: tasks.tuning("thucnews"),
}
