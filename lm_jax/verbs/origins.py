"""The files of the imported checkpoint that a run began as, which an export needs, and runs of earlier versions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_jax.core.trees import Params, flatten, unflatten
from lm_jax.interop import choice, huggingface, safetensors
from lm_jax.interop.settings import Settings
from lm_jax.models.config import ModelConfig, TransformerConfig

ABOUT = "about.json"
# Where earlier versions stored the heads of classes: beside the model, or in its sentence-pair head.
_MOVED = {
    "extra/pooler": "task/dense",
    "extra/dense": "task/dense",
    "extra/norm": "task/norm",
    "extra/out": "task/out",
    "pair/pooler": "task/dense",
    "pair/out": "task/out",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """What a run keeps of an imported checkpoint.

    Attributes:
      tree: its config.json; empty if the run was not imported.
      config: the model that it was imported as.
      extra: tensors that the class stores and our model lacks, by path.
    """

    tree: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    config: ModelConfig | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read(folder: Path) -> Origin:
    """Reads the folder of an imported checkpoint's files; it need not exist."""
    if not (folder / ABOUT).is_file():
        return Origin()
    about = json.loads((folder / ABOUT).read_text())
    family = huggingface.family_of(about["config"])
    config = family.configure(Settings(about["config"], about["tensors"], heads=family.heads))
    stored = safetensors.entries(folder) if (folder / safetensors.SINGLE).is_file() else {}
    return Origin(tree=about["config"], config=config, extra={name: entry.read() for name, entry in stored.items()})


def updated(origin: Origin, config: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
    """Moves the head of a run that an earlier version imported to where this version has it."""
    before = origin.config
    if before is None or not before.task.exists or config.task.exists:
        return config, params
    leaves = {}
    for path, leaf in {**flatten(params), **origin.extra}.items():
        parent, _, name = path.rpartition("/")
        parent = _MOVED.get(parent, parent)
        if not parent.startswith(huggingface.EXTRA):
            leaves[f"{parent}/{name}"] = leaf
    others = {"pair_classes": 0} if isinstance(config, TransformerConfig) else {}
    return dataclasses.replace(config, task=before.task, **others), unflatten(leaves)


def tree_of(origin: Origin, config: ModelConfig) -> dict[str, Any]:
    """Returns config.json of the imported checkpoint for a model of its class; empty if the model has changed since."""
    before, rows = origin.config, config.embed.vocab
    if before is None:
        return {}
    if isinstance(before, TransformerConfig) and before.detection and origin.extra:
        # An earlier version stored this head beside the model.
        before = dataclasses.replace(before, detection=False)
    # The vocabulary may have grown since the import.
    grown = dataclasses.replace(before, embed=dataclasses.replace(before.embed, vocab=rows))
    if choice.function_of(grown) != choice.function_of(config):
        return {}
    return dict(origin.tree) if before.embed.vocab == rows else {**origin.tree, "vocab_size": rows}
