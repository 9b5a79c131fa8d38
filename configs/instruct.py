"""Instruction tuning: a decoder that answers, trained on the answers only.

Paper:    Ouyang et al. 2022 (arXiv:2203.02155), section 3.5, supervised fine-tuning; Cobbe et al.
          2021 (arXiv:2110.14168), GSM8K.
Hardware: two CPU cores, or one accelerator.
Command:  lm-jax train --config=instruct:gsm8k --fork=MODEL --config.data.path=train.jsonl \
              --config.data.dev=test.jsonl --workdir=/tmp/instruct
Expected: docs/tasks/instruct.md has the measured result.
"""

import ml_collections

from lm_jax.data import tasks
from lm_jax.models.presets import gpt


def get_config(variant: str = "gsm8k") -> ml_collections.ConfigDict:
    """Return the recipe of a variant; all but tiny tune the model of --fork."""
    return ml_collections.ConfigDict(VARIANTS[variant]())


def tiny() -> ml_collections.ConfigDict:
    """Train a small decoder from nothing on a table of your own; all numbers are ours."""
    config = ml_collections.ConfigDict(tasks.scratch("instructions"))
    config.model = gpt.gpt2("tiny")
    return config


def gsm8k() -> ml_collections.ConfigDict:
    """Tune a model on GSM8K, whose answers end with "#### NUMBER"; the lengths are ours."""
    config = ml_collections.ConfigDict(tasks.tuning("instructions"))
    config.data.length = 512
    config.objective.seq2seq.target_length = 320
    config.task.answer_after = "####"
    return config


VARIANTS = {"tiny": tiny, "gsm8k": gsm8k}
