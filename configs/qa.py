"""Question answering: which span of a text answers a question?

Paper:    Rajpurkar et al. 2016 (arXiv:1606.05250), the task; Devlin et al. 2019 (arXiv:1810.04805), sections 4.2, 4.3.
Hardware: two CPU cores, or one accelerator.
Command:  lm-jax train --config=qa:squad --fork=MODEL --config.data.path=train.json \
              --config.data.dev=dev.json --workdir=/tmp/qa
Expected: docs/tasks/qa.md has the measured result.
"""

import ml_collections

from lm_jax.data import tasks
from lm_jax.models.presets import bert


def get_config(variant: str = "squad") -> ml_collections.ConfigDict:
    """Return the recipe of a variant; all but tiny tune the model of --fork."""
    return ml_collections.ConfigDict(VARIANTS[variant]())


def tiny() -> ml_collections.ConfigDict:
    """Train a small encoder from nothing on a file in SQuAD's format; all numbers are ours."""
    config = ml_collections.ConfigDict(tasks.scratch("questions"))
    config.model = bert.bert("tiny")
    return config


VARIANTS = {
    "tiny": tiny,
    "squad": lambda: tasks.tuning("questions"),
}
