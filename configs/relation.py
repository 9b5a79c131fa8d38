"""Relations: how are two marked entities of a text related?

Paper:    Baldini Soares et al. 2019 (arXiv:1906.03158), section 3.2, entity markers and entity starts.
Hardware: two CPU cores, or one accelerator.
Command:  lm-jax train --config=relation:semeval2010 --fork=MODEL --config.data.path=train.tsv \
              --config.data.validation=800 --workdir=/tmp/relation
Expected: docs/tasks/relation.md has the measured results.
"""

import ml_collections

from lm_jax.data import tasks
from lm_jax.models.presets import bert


def get_config(variant: str = "table") -> ml_collections.ConfigDict:
    """Return the recipe of a variant; all but tiny tune the model of --fork."""
    return ml_collections.ConfigDict(VARIANTS[variant]())


def tiny() -> ml_collections.ConfigDict:
    """Train a small encoder from nothing on a table of your own; all numbers are ours."""
    config = ml_collections.ConfigDict(tasks.scratch("relations"))
    config.model = bert.bert("tiny")
    return config


VARIANTS = {
    "tiny": tiny,
    "table": lambda: tasks.tuning("relations", learning_rate=1e-4),
    "semeval2010": lambda: tasks.tuning("semeval2010", learning_rate=1e-4),
}
