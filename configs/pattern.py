"""Patterns and verbalisers: which label's word fits into a pattern around the text?

Paper:    Schick and Schuetze 2021 (arXiv:2001.07676), section 3.1; Gao et al. 2021 (arXiv:2012.15723), section 3.
Hardware: two CPU cores, or one accelerator.
Command:  lm-jax train --config=pattern:eprstmt --fork=MODEL --config.data.path=train.json \
              --config.data.dev=dev.json --workdir=/tmp/pattern
          lm-jax train --config=pattern:table --fork=MODEL --config.data.path=train.tsv \
              --config.data.dev=dev.tsv --config.objective.pattern.template='{text} It was {mask}.' \
              --config.objective.pattern.words=pos=great,neg=terrible --workdir=/tmp/pattern
Expected: docs/tasks/pattern.md has the measured results.
"""

import ml_collections

from lm_jax.data import tasks
from lm_jax.models.presets import bert


def get_config(variant: str = "table") -> ml_collections.ConfigDict:
    """Return the recipe of a variant; all but tiny tune the model of --fork."""
    return ml_collections.ConfigDict(VARIANTS[variant]())


def tiny() -> ml_collections.ConfigDict:
    """Train a small encoder from nothing on a table of your own; all numbers are ours."""
    config = ml_collections.ConfigDict(tasks.scratch("words_of_labels"))
    config.model = bert.bert("tiny")
    return config


VARIANTS = {
    "tiny": tiny,
    "table": lambda: tasks.few_shot("words_of_labels"),
    "sst2": lambda: tasks.few_shot("sst2_words"),
    "eprstmt": lambda: tasks.few_shot("eprstmt"),
    "tnews": lambda: tasks.few_shot("tnews"),
}
