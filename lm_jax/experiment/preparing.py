"""Experiments: with the text of a configuration, or from a work directory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_jax.core.config import InputError
from lm_jax.data import columns, corpora, markers, tokenizers
from lm_jax.data.columns import Columns
from lm_jax.data.corpora import Corpus
from lm_jax.data.kinds import KINDS
from lm_jax.data.several import naming
from lm_jax.experiment.config import SAVED, ExperimentConfig, parse, saved, saved_labels
from lm_jax.experiment.pieces import Experiment, document_prefix


def prepare(
    config: ExperimentConfig,
    progress: Any = None,
    tokenizer: tokenizers.Tokenizer | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
) -> Experiment:
    """Cleans the text, trains the tokenizer and stores the tokens, or reuses existing results.

    `tokenizer` replaces the configured one, and `labels` are the names of labels by column, in the order of their ids;
    None: those in the text. `progress` is called as in `store.prepare`.
    """
    _check_kind(config)
    prefix, labels = document_prefix(config), {**label_names(config), **(labels or {})}
    corpus = corpora.prepare(config.data, progress, tokenizer, prefix, labels)
    dev = corpora.prepare_dev(config.data, corpus, progress, prefix)
    tokens, dev = _marked(config, corpus), None if dev is None else naming("config.data.dev", _marked)(config, dev)
    return Experiment(config, tokens.tokenizer, tokens, dev=dev)


def load(workdir: str | os.PathLike[str]) -> Experiment:
    """Loads the experiment of a work directory, without its text.

    Raises:
      InputError: the directory does not exist, or holds no run.
    """
    config = saved(workdir)
    if config is None:
        raise InputError(f"--workdir {workdir} holds no {SAVED}; give the directory of a run of `lm-jax train`")
    tokenizer = tokenizers.load(Path(workdir) / "tokenizer")
    return Experiment(parse(config), tokenizer, saved_labels=saved_labels(workdir))


def _check_kind(config: ExperimentConfig) -> None:
    """Refuses a column of answers whose kind is not that of the answers that the objective learns."""
    objective = config.objective
    kinds = {
        "classify": (objective.classify.label, (objective.classify.answers,)),
        "tag": (objective.tag.tags, ("tags", "words")),
        "answer": (objective.answer.answers, ("spans",)),
        "choice": (objective.choice.label, ("label",)),
        "pattern": (objective.pattern.label, ("label",)),
        "embed": (objective.embed.score, ("number",)),
    }
    name, expected = kinds.get(objective.name, ("", ()))
    column = columns.parse(config.data.columns).get(name)
    if column is not None and {*expected} <= {*KINDS} and column.kind not in expected:
        raise InputError(
            f"{columns.KEY}.{name}.kind is {column.kind!r}, but the objective {objective.name!r} learns answers of the "
            f"kind {expected[0]!r}; set it to that, or change config.objective.{objective.name}"
        )


def label_names(config: ExperimentConfig) -> dict[str, tuple[str, ...]]:
    """Returns the labels of multiple choice and of a pattern, if the configuration names no others.

    They are the numbers of the choices from 0, and the labels that have words: the labels in the text may lack some of
    them, and would then get other ids.
    """
    choice, pattern = config.objective.choice, config.objective.pattern
    names = {
        "choice": (choice.label, tuple(map(str, range(len(choice.choices))))),
        "pattern": (pattern.label, tuple(pattern.word_of)),
    }
    name, labels = names.get(config.objective.name, ("", ()))
    column = columns.parse(config.data.columns).get(name)
    return {name: labels} if labels and column is not None and not column.names else {}


def _marked(config: ExperimentConfig, corpus: Corpus) -> Corpus:
    """The text, of which every record has the markers that the objective reads."""
    classify = config.objective.classify
    if config.objective.name != "classify" or not classify.markers or not isinstance(corpus, Columns):
        return corpus
    return markers.require(corpus, classify.text, classify.markers)
