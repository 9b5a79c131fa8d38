"""The configuration of a run: frozen dataclasses, from a recipe or from a work directory.

A recipe sets only what its paper sets. `complete` adds every other field with its default, so that the command line can
override any field; `parse` converts the result to frozen dataclasses.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections

from lm_jax.core.config import InputError, Tree, from_config_dict, lookup, merge, setting, to_config_dict
from lm_jax.data.columns import ColumnConfig
from lm_jax.data.config import DataConfig
from lm_jax.data.conventions import ConventionsConfig
from lm_jax.data.sources import SourceConfig
from lm_jax.evaluate.config import EvaluateConfig
from lm_jax.models.config import KINDS, AttentionConfig, BlockConfig, EncoderDecoderConfig, ModelConfig, StackConfig
from lm_jax.objectives import ObjectiveConfig
from lm_jax.parallel.mesh import MeshConfig
from lm_jax.parallel.rules import Rules
from lm_jax.train.loop import CheckpointConfig, LogConfig, TrainConfig
from lm_jax.train.optimizers import OptimizerConfig

# Trees whose entries have names of the user's choice, and the class of an entry, whose fields become flags.
ENTRIES = {
    "config.data.mixture.sources": SourceConfig,
    "config.data.columns": ColumnConfig,
    "config.objective.mixture.parts": ObjectiveConfig,
}

# File name of the configuration in a work directory, and the key of its list of later changes.
SAVED, HISTORY = "config.json", "history"
# File name of the names of labels in a work directory: a list by column.
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
        raise InputError("the recipe sets no config.model; start from a preset, such as presets.gpt.gpt2('small')")
    config: Any = merge(to_config_dict(ExperimentConfig(model=_blank(recipe.model))), recipe)
    for role in config.models:
        key = f"config.models.{role}"
        config.models[role] = merge(to_config_dict(_blank(config.models[role], key)), config.models[role], key)
    for key, entry in ENTRIES.items():
        tree = functools.reduce(getattr, key.split(".")[1:], config)
        for name in tree:
            tree[name] = merge(to_config_dict(entry()), tree[name], f"{key}.{name}")
    return config


def parse(config: Mapping[str, Any] | ml_collections.ConfigDict) -> ExperimentConfig:
    """Converts a complete configuration, or one read from JSON, to frozen dataclasses."""
    typed = from_config_dict(ExperimentConfig, config)
    models = {role: _model(tree, f"config.models.{role}") for role, tree in typed.models.items()}
    return dataclasses.replace(typed, model=_model(typed.model), models=Tree(models))


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


def saved_labels(workdir: str | os.PathLike[str]) -> Mapping[str, tuple[str, ...]]:
    """The names of the labels of a run, by column and in the order of their ids; empty if it has none.

    Raises:
      InputError: the file cannot be read.
    """
    path = Path(workdir) / LABELS
    try:
        return Tree({column: tuple(names) for column, names in json.loads(path.read_text()).items()})
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
