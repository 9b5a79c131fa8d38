"""The tasks of Hugging Face's classes: the objective that trains the head of a class, and the class of an objective.

A classifier becomes a run of `classify` and back, a token classifier of `tag`, question answering of `answer`, multiple
choice of `choice`. A sentence encoder, whose objective is `embed`, is a bare model with files of sentence-transformers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from lm_jax import objectives
from lm_jax.core.config import InputError, Tree
from lm_jax.data import columns
from lm_jax.experiment import Experiment
from lm_jax.interop import choice, heads
from lm_jax.interop.huggingface import Checkpoint
from lm_jax.interop.settings import Settings
from lm_jax.models.config import ModelConfig
from lm_jax.objectives import OBJECTIVES, ObjectiveConfig
from lm_jax.objectives.classify import ClassifyConfig
from lm_jax.objectives.roles import product
from lm_jax.verbs import origins

# Suffixes of the classes with the head of an objective.
SUFFIXES = {
    "classify": heads.SEQUENCES,
    "tag": heads.TOKENS,
    "answer": heads.ANSWERS,
    "choice": heads.CHOICES,
    "embed": choice.BARE,
}
# Kinds of the columns that an objective reads by default, the column of labels last.
COLUMNS = {
    "classify": {"text": "text", "label": "label"},
    "tag": {"text": "text", "tags": "tags"},
    "answer": {"question": "text", "context": "text", "answers": "spans"},
}
# `problem_type` by the answers of `classify`.
PROBLEMS = {
    "label": "single_label_classification",
    "labels": "multi_label_classification",
    "number": "regression",
}


class Imported(NamedTuple):
    """The task of an imported checkpoint: its objective, the columns of its data, and the names of labels by column."""

    objective: ObjectiveConfig
    columns: Tree
    labels: Mapping[str, tuple[str, ...]]


def of_checkpoint(checkpoint: Checkpoint) -> Imported | None:
    """The task of a checkpoint; None if its class has no head of a task, or no objective trains this head."""
    task, suffix = checkpoint.config.task, heads.suffix(checkpoint.architecture)
    name = next((name for name, each in SUFFIXES.items() if each in suffix and each != choice.BARE), "")
    if not task.classes or name not in OBJECTIVES:
        return None
    objective, kinds = ObjectiveConfig(name=name), dict(COLUMNS.get(name, {}))
    roles = objectives.roles(objective)
    answers = _answers(checkpoint.tree, task.classes) if name == "classify" else ""
    if checkpoint.config.kind not in roles[product(roles)].kinds or (answers == "number" and task.classes > 1):
        return None
    if answers:
        objective = dataclasses.replace(objective, classify=ClassifyConfig(answers=answers))
        kinds["label"] = answers if answers in columns.KINDS else "label"
    labels = {}
    if name in ("classify", "tag") and answers != "number":
        labels = {[*kinds][-1]: names_of(checkpoint.tree)}
    # In another order of its names, a label would get the id of another one.
    names = {"label": labels["label"]} if "label" in labels else {}
    tree = {
        column: {"kind": kind} | ({"names": names[column]} if column in names else {}) for column, kind in kinds.items()
    }
    if "answers" in tree:
        tree["answers"]["of"] = "context"
    known = all(kind in columns.KINDS for kind in kinds.values() if kind != "text")
    return Imported(objective, Tree({name: Tree(each) for name, each in tree.items()} if known else {}), Tree(labels))


def _answers(tree: Mapping[str, Any], classes: int) -> str:
    """What a sequence classifier answers, as in the reference: one class means regression."""
    problem = tree.get("problem_type") or PROBLEMS["number" if classes == 1 else "label"]
    return next((answers for answers, each in PROBLEMS.items() if each == problem), "label")


def names_of(tree: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the labels of a config.json, in the order of their ids; `LABEL_0` ... if it has no unique names."""
    count, given = Settings(tree).labels(), tree.get("id2label") or {}
    by_id = {str(number): str(name) for number, name in given.items()} if isinstance(given, Mapping) else {}
    names = tuple(by_id.get(str(number), "") for number in range(count))
    unique = len(set(names) - {""}) == count
    return names if unique else tuple(f"LABEL_{number}" for number in range(count))


def suffix_of(exp: Experiment) -> str:
    """The suffix of the class that a run is exported as; empty unless its objective is a task.

    Raises:
      InputError: no class has such a head.
    """
    name = exp.config.objective.name
    if exp.task is None:
        return ""
    if exp.task.vectors is not None:
        return choice.BARE
    if not exp.task.head(exp.config.model.task).exists:
        # The model's own readout answers: the class of the model as it is.
        return ""
    if name not in SUFFIXES:
        raise InputError(f"no Hugging Face class has the head of the objective {name!r}; {choice.ADVICE}")
    if getattr(getattr(exp.config.objective, name), "markers", ()):
        raise InputError(
            f"config.objective.{name}.markers is set, but the classes of transformers read no markers; {choice.ADVICE}"
        )
    return SUFFIXES[name]


def class_of(
    exp: Experiment, config: ModelConfig, suffix: str, begun: origins.Origin
) -> tuple[dict[str, Any], ModelConfig, bool]:
    """The config.json of the class that a model is exported as, its configuration, and whether it was imported as such.

    Args:
      exp: the run.
      config: its model.
      suffix: suffix of a class with the head of a task, or of the bare model; empty: the class of the model as it is.
      begun: the checkpoint that the run began as.
    """
    if not suffix:
        tree = origins.tree_of(begun, config)
        return tree or choice.tree_for(config), config, bool(tree)
    fields = {} if suffix == choice.BARE else fields_of(exp)
    tree, config = choice.tree_for_task(config, suffix, fields, begun.tree)
    kept = tree["model_type"] == begun.tree.get("model_type")
    padding = tree.get("pad_token_id")
    return {**tree, "pad_token_id": exp.padding if padding is None else padding}, config, kept


def fields_of(exp: Experiment) -> dict[str, Any]:
    """The fields of config.json for the labels of a run's task."""
    name, task = exp.config.objective.name, exp.task
    if task is None or name not in ("classify", "tag"):
        return {}
    problem = {"problem_type": PROBLEMS[task.kind_of_answers]} if name == "classify" else {}
    # A head for numbers has one output, as `num_labels` says.
    names = task.labels or ("LABEL_0",)
    return {
        "id2label": {str(number): label for number, label in enumerate(names)},
        "label2id": {label: number for number, label in enumerate(names)},
        "num_labels": len(names),
        **problem,
    }
