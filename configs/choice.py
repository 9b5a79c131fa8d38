"""Multiple choice: which of several texts continues or answers a text?

Paper:    Devlin et al. 2019 (arXiv:1810.04805), section 4.4.
Hardware: two CPU cores, or one accelerator.
Command:  lm-jax train --config=choice:copa --fork=MODEL --config.data.path=copa.jsonl \
              --config.data.validation=0.2 --workdir=/tmp/choice
Expected: docs/tasks/choice.md has the measured results.
"""

import ml_collections

from lm_jax.data import tasks
from lm_jax.models.presets import bert


def get_config(variant: str = "table") -> ml_collections.ConfigDict:
    """Return the recipe of a variant; all but tiny tune the model of --fork."""
    return ml_collections.ConfigDict(VARIANTS[variant]())


def tiny() -> ml_collections.ConfigDict:
    """Train a small encoder from nothing on a table of your own; all numbers are ours."""
    config = ml_collections.ConfigDict(tasks.scratch("choices"))
    config.model = bert.bert("tiny")
    return config


VARIANTS = {
    "tiny": tiny,
    "table": lambda: tasks.tuning("choices"),
    "copa": lambda: tasks.tuning("copa"),
    "piqa": lambda: tasks.tuning("piqa"),
}
