"""Token classification: a tag for each word, such as names of people and places.

Paper:    Devlin et al. 2019 (arXiv:1810.04805), section 5.3; Tjong Kim Sang and De Meulder 2003
          (cs/0306050), the task.
Hardware: two CPU cores, or one accelerator.
Command:  lm-jax train --config=tag:conll2003 --fork=MODEL --config.data.path=train.txt \
              --config.data.dev=valid.txt --workdir=/tmp/tag
Expected: docs/tasks/tag.md has the measured results.
"""

import ml_collections

from lm_jax.data import tasks
from lm_jax.models.presets import bert


def get_config(variant: str = "table") -> ml_collections.ConfigDict:
    """Return the recipe of a variant; all but tiny tune the model of --fork."""
    return ml_collections.ConfigDict(VARIANTS[variant]())


def tiny() -> ml_collections.ConfigDict:
    """Train a small encoder from nothing on a file of words and tags; all numbers are ours."""
    config = ml_collections.ConfigDict(tasks.scratch("words"))
    config.model = bert.bert("tiny")
    return config


VARIANTS = {
    "tiny": tiny,
    "table": lambda: tasks.tuning("words", learning_rate=1e-4),
    "rows": lambda: tasks.tuning("snips_slots", learning_rate=1e-4),
    "conll2003": lambda: tasks.tuning("conll2003", learning_rate=1e-4),
    "snips": lambda: tasks.tuning("snips_slots", learning_rate=1e-4),
}
