"""Experiments without text, for what needs only the sizes of a run, such as a plan of its train step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_jax.core.config import InputError, Tree
from lm_jax.data import columns, tokenizers
from lm_jax.data.kinds import KINDS
from lm_jax.experiment.config import ExperimentConfig
from lm_jax.experiment.pieces import Experiment
from lm_jax.experiment.preparing import label_names


def without_text(
    config: ExperimentConfig, devices: Sequence[Any], tokenizer: tokenizers.Tokenizer | None = None
) -> Experiment:
    """Returns an experiment on `devices` that has models, objective and train step, but no text.

    `tokenizer` is that of the run that is forked. Without one, it is that of
    `config.data.tokenizer.path`, else a placeholder of the largest size that the configuration allows.

    Raises:
      InputError: the objective needs the names of labels, which the configuration leaves to the text.
    """
    settings = config.data.tokenizer
    if tokenizer is None and settings.path:
        tokenizer = tokenizers.load(settings.path, sentinels=settings.sentinels, lowercase=settings.lowercase)
    if tokenizer is None:
        tokenizer = tokenizers.placeholder(settings)
    known, labels = label_names(config), {}
    for name, column in columns.parse(config.data.columns).items():
        named = column.kind in KINDS and KINDS[column.kind].named
        labels[name] = tuple(column.names) or known.get(name, ())
        if named and not labels[name]:
            raise InputError(
                f"{columns.KEY}.{name}.names is empty, so the labels are those of the text, which a plan does not "
                f"read; set it, such as --{columns.KEY}.{name}.names=good,bad"
            )
    tokenizer = tokenizers.extend(tokenizer, settings.added, settings.markers)
    return Experiment(config, tokenizer, devices=devices, saved_labels=Tree(labels))
