"""Classification of pairs of texts: does one follow from the other, do both say the same?

Paper:    Devlin et al. 2019 (arXiv:1810.04805), sections 4.1 and A.3.
Hardware: two CPU cores, or one accelerator.
Command:  lm-jax train --config=pair:mrpc --fork=MODEL --config.data.path=train.tsv \
              --config.data.dev=dev.tsv --workdir=/tmp/pair
Expected: docs/tasks/pair.md has the measured results.
"""

import ml_collections

from lm_jax.data import tasks
from lm_jax.models.presets import bert


def get_config(variant: str = "table") -> ml_collections.ConfigDict:
    """Return the recipe of a variant; all but tiny tune the model of --fork."""
    return ml_collections.ConfigDict(VARIANTS[variant]())


def tiny() -> ml_collections.ConfigDict:
    """Train a small encoder from nothing on a table of your own; all numbers are ours."""
    config = ml_collections.ConfigDict(tasks.scratch("pairs"))
    config.model = bert.bert("tiny")
    return config


VARIANTS = {
    "tiny": tiny,
    "table": lambda: tasks.tuning("pairs"),
    "mrpc": lambda: tasks.tuning("mrpc"),
    "rte": lambda: tasks.tuning("rte"),
    "sick": lambda: tasks.tuning("sick"),
}
