"""The configuration of a run: frozen dataclasses, from a recipe or from a work directory.

A recipe sets only what its paper sets. `complete` adds every other field with its default, so that the command line can
override any field; `parse` converts the result to frozen dataclasses.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from lm_jax.adapt import AdaptConfig
from lm_jax.core.config import (
    InputError,
    Tree,
    build_entries,
    from_config_dict,
    lookup,
    merge,
    replace_fields,
    setting,
    to_config_dict,
)
from lm_jax.data.columns import ColumnConfig
from lm_jax.data.config import DataConfig
from lm_jax.data.conventions import ConventionsConfig
from lm_jax.data.sources import SourceConfig
from lm_jax.data.tasks import TaskConfig
from lm_jax.evaluate.config import EvaluateConfig
from lm_jax.models.config import KINDS, AttentionConfig, BlockConfig, EncoderDecoderConfig, ModelConfig, StackConfig
from lm_jax.objectives import ObjectiveConfig, roles
from lm_jax.parallel.mesh import AUTO, MeshConfig
from lm_jax.parallel.rules import Rules
from lm_jax.train.loop import CheckpointConfig, LogConfig, TrainConfig
from lm_jax.train.optimizers import OptimizerConfig

# Trees whose entries have names of the user's choice, and the class of an entry, whose fields become flags.
ENTRIES = {
    "config.data.mixture.sources": SourceConfig,
    "config.data.columns": ColumnConfig,
    "config.objective.mixture.parts": ObjectiveConfig,
}

# Words in the place of a tree, and the values of the tree that they stand for.
WORDS = {("config.mesh", "auto"): AUTO}

# On the command line, a setting switches off the recipe's other setting, which would replace it.
REPLACED_BY = {
    "config.seed": "config.train.seeds",
    "config.train.steps": "config.train.epochs",
    "config.evaluate.every": "config.evaluate.per_epoch",
    "config.data.validation": "config.data.dev",
}

# File name of the configuration in a work directory, and the key of its list of later changes.
SAVED, HISTORY = "config.json", "history"
# File name of the names of labels by column, in the order of their ids.
LABELS = "labels.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """All settings of a run. The `kind` of a model selects its dataclass.

    `model` is the one to evaluate, generate from and export; `models` are the objective's other models, by role.
    """

    model: Any
    models: Tree = Tree()
    seed: int = setting(0, at_least=0, below=2**32)
    objective: ObjectiveConfig = ObjectiveConfig()
    conventions: ConventionsConfig = ConventionsConfig()
    data: DataConfig = DataConfig()
    task: TaskConfig = setting(TaskConfig(), free=True)
    adapt: AdaptConfig = AdaptConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    mesh: MeshConfig = setting(MeshConfig(), free=True)
    rules: Rules = setting(Rules(), free=True)
    evaluate: EvaluateConfig = setting(EvaluateConfig(), free=True)
    checkpoint: CheckpointConfig = setting(CheckpointConfig(), free=True)
    log: LogConfig = setting(LogConfig(), free=True)


def complete(recipe: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A recipe with defaults for all missing fields.

    Raises:
      InputError: the recipe has an unknown key, or no model.
    """
    if "model" not in recipe:
        raise InputError(
            "the recipe sets no config.model; start from a preset, such as presets.gpt.gpt2('small'), or take the "
            "model of a trained or imported run with --fork=RUN"
        )
    worded = {
        name: WORDS.get((f"config.{name}", value), value) if isinstance(value, str) else value
        for name, value in recipe.items()
    }
    config: Any = merge(to_config_dict(ExperimentConfig(model=_blank(recipe.model))), worded)
    for role in config.models:
        key = f"config.models.{role}"
        config.models[role] = merge(to_config_dict(_blank(config.models[role], key)), config.models[role], key)
    for key, entry in ENTRIES.items():
        tree = functools.reduce(getattr, key.split(".")[1:], config)
        for name in tree:
            tree[name] = merge(to_config_dict(entry()), tree[name], f"{key}.{name}")
    return config


def adopt(recipe: Any, fork: str | None, workdir: str | None) -> Any:
    """A recipe that sets no `config.model`, with the models, conventions and tokenizer settings of a run.

    The run is `fork`; if there is none, or it was deleted, the one to resume in `workdir`. A recipe with a model is
    returned as it is.
    """
    if "model" in recipe:
        return recipe
    run = None if fork is None else saved(fork)
    # The run itself keeps the tokenizer of its parameters; a new run extends it by its own settings.
    fresh: dict[str, Any] = {"path": "", "add": (), "markers": (), "anew": False} if run else {}
    if run is None and workdir is not None:
        run = next(filter(None, map(saved, [Path(workdir), *sorted(Path(workdir).glob("seed-*"))])), None)
    if run is None:
        if fork is not None:
            raise InputError(f"--fork={fork} holds no run; give the --workdir of a trained or imported run")
        return recipe
    typed, tree = parse(run), copy.deepcopy(recipe)
    objective = from_config_dict(ObjectiveConfig, recipe.get("objective", {}), "config.objective")
    models = {role: dataclasses.asdict(typed.models[role]) for role in roles(objective) if role in typed.models}
    tokenizer = dataclasses.asdict(typed.data.tokenizer) | fresh
    with tree.unlocked():
        tree.model = dataclasses.asdict(typed.model)
        tree.models = {**models, **tree.get("models", {})}
        tree.conventions = {**dataclasses.asdict(typed.conventions), **tree.get("conventions", {})}
        data = tree.get("data", {})
        tree.data = {**data, "tokenizer": {**tokenizer, **data.get("tokenizer", {})}}
    return tree


def parse(config: Mapping[str, Any] | ml_collections.ConfigDict) -> ExperimentConfig:
    """Converts a complete configuration, or one read from JSON, to frozen dataclasses."""
    typed = _with_entries(from_config_dict(ExperimentConfig, config))
    models = {role: _model(tree, f"config.models.{role}") for role, tree in typed.models.items()}
    return dataclasses.replace(typed, model=_model(typed.model), models=Tree(models))


def replaced(overrides: Sequence[str]) -> list[str]:
    """The arguments `--config.KEY=VALUE` that switch off settings by `REPLACED_BY`.

    Raises:
      InputError: a setting and the one that replaces it are both among `overrides`.

    Example:
      >>> replaced(["--config.train.steps=10"])
      ['--config.train.epochs=0']
    """
    pairs = [word.removeprefix("--").partition("=") for word in overrides]
    values, added = {name: value for name, _, value in pairs}, []
    for name, other in REPLACED_BY.items():
        if name in values and values.get(other, "").strip("0."):
            raise InputError(f"--{name} has no effect, because --{other} is {values[other]}; leave out one of them")
        if name in values and other not in values:
            added.append(f"--{other}={'0' if other.endswith(('epochs', 'epoch')) else ''}")
    return added


def _with_entries(config: ExperimentConfig) -> ExperimentConfig:
    """Adds the defaults of settings that the entries of `ENTRIES` lack, because an earlier version saved them."""
    for key, entry in ENTRIES.items():
        *parents, name = key.split(".")[1:]
        tree = getattr(functools.reduce(getattr, parents, config), name)
        if tree:
            entries = build_entries(entry, tree, key)
            complete = {each: dataclasses.asdict(entries[each]) for each in tree}
            over = functools.reduce(lambda inner, parent: {parent: inner}, reversed(parents), {name: complete})
            config = replace_fields(config, over, "config")
    return config


def as_json(config: ExperimentConfig) -> dict[str, Any]:
    """A configuration as JSON values; tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def saved(workdir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The configuration in a work directory, or None if the directory holds no run.

    Raises:
      InputError: the file cannot be read.
    """
    path = Path(workdir) / SAVED
    try:
        config = json.loads(path.read_text())
        config.pop(HISTORY, None)
        return config
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged or unreadable ({error}); restore it, or use another --workdir") from error


def saved_labels(workdir: str | os.PathLike[str]) -> Tree:
    """The names of labels in a work directory, by column; empty if the run has none.

    Raises:
      InputError: the file cannot be read.
    """
    path = Path(workdir) / LABELS
    try:
        return Tree({name: tuple(names) for name, names in json.loads(path.read_text()).items()})
    except (FileNotFoundError, NotADirectoryError):
        return Tree()
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{path} is damaged or unreadable ({error}); restore it, or use another --workdir") from error


def _kind(model: Any, key: str = "config.model") -> Any:
    """The dataclass for a tree of model settings."""
    if not hasattr(model, "get"):
        raise InputError(f"{key} is {model!r}; expected a tree, such as presets.gpt.gpt2('small')")
    return lookup(KINDS, model.get("kind", "decoder"), f"{key}.kind")


def _blank(model: Any, key: str = "config.model") -> ModelConfig:
    """Default settings of the model's kind, with its optional subtrees, so that any field can be overridden."""
    kind = _kind(model, key)
    if kind is EncoderDecoderConfig:
        return kind(decoder=StackConfig(block=BlockConfig(cross=AttentionConfig(mask="full"))))
    return kind(kind="decoder")


def _model(tree: Any, key: str = "config.model") -> ModelConfig:
    return from_config_dict(_kind(tree, key), tree, key)
