"""Summarisation: a short text that says what a long one says.

Paper:    Chen et al. 2021 (arXiv:2105.06762), DialogSum; Raffel et al. 2020 (arXiv:1910.10683), section 2.3.
Hardware: two CPU cores, or one accelerator.
Command:  lm-jax train --config=summarise:dialogsum --fork=MODEL --config.data.path=dialogsum.jsonl \
              --config.data.validation=0.1 --workdir=/tmp/summarise
Expected: ROUGE-L 17.9 of a decoder of 1.3 million parameters that read only novels before (docs/claims.md).
"""

import ml_collections

from lm_jax.data import tasks
from lm_jax.models.presets import t5


def get_config(variant: str = "dialogsum") -> ml_collections.ConfigDict:
    """Return the recipe of a variant; all but tiny tune the model of --fork."""
    return ml_collections.ConfigDict(VARIANTS[variant]())


def tiny() -> ml_collections.ConfigDict:
    """Train a small encoder-decoder from nothing on a table of your own; all numbers are ours."""
    config = ml_collections.ConfigDict(tasks.scratch("dialogsum"))
    config.model = t5.t5("tiny")
    return config


VARIANTS = {
    "tiny": tiny,
    "dialogsum": lambda: tasks.tuning("dialogsum"),
}
