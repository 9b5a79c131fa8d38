"""Regression: how similar are two texts, as a number?

Paper:    Cer et al. 2017 (arXiv:1708.00055), the task; Devlin et al. 2019 (arXiv:1810.04805), section 4.1.
Hardware: two CPU cores, or one accelerator.
Command:  lm-jax train --config=sts:stsb --fork=MODEL --config.data.path=train.tsv \
              --config.data.validation=848 --workdir=/tmp/sts
Expected: docs/tasks/sts.md has the measured results.
"""

import ml_collections

from lm_jax.data import tasks
from lm_jax.models.presets import bert


def get_config(variant: str = "table") -> ml_collections.ConfigDict:
    """Return the recipe of a variant; all but tiny tune the model of --fork."""
    return ml_collections.ConfigDict(VARIANTS[variant]())


def tiny() -> ml_collections.ConfigDict:
    """Train a small encoder from nothing on a table of your own; all numbers are ours."""
    config = ml_collections.ConfigDict(tasks.scratch("scores"))
    config.model = bert.bert("tiny")
    return config


VARIANTS = {
    "tiny": tiny,
    "table": lambda: tasks.tuning("scores"),
    "stsb": lambda: tasks.tuning("stsb"),
}
