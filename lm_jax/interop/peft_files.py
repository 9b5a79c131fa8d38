"""The two files of an adapter directory of PEFT (github.com/huggingface/peft): settings and tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_jax.core.config import InputError, Tree
from lm_jax.interop import safetensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# `task_type` by the suffix of the class.
TASK_TYPES = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
}


class Loaded(NamedTuple):
    """An adapter in our terms: the settings of `config.adapt`, and the added parameters by path."""

    settings: dict[str, Any]
    leaves: dict[str, np.ndarray]


def task_type(architecture: str) -> str:
    """PEFT's `task_type` of a class."""
    return next((kind for suffix, kind in TASK_TYPES.items() if architecture.endswith(suffix)), "FEATURE_EXTRACTION")


def write(folder: Path, tensors: list[safetensors.Tensor], tree: Mapping[str, Any]) -> None:
    """Writes the tensors and the settings of an adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.write_file(folder / WEIGHTS, tensors)
    text = json.dumps(tree, indent=2, sort_keys=True) + "\n"
    safetensors.replace(folder / CONFIG, lambda partial: partial.write_text(text, encoding="utf-8"))


def read(folder: Path) -> dict[str, Any]:
    """Reads the settings of a directory.

    Raises:
      InputError: a file is missing or damaged.
    """
    try:
        tree = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tree["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / CONFIG} is missing or damaged ({type(error).__name__}: {error}); give a directory that "
            "PEFT's save_pretrained wrote"
        ) from error
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder} lacks {WEIGHTS}; adapters in other formats are not read")
    return tree


def check_fields(
    folder: Path, tree: Mapping[str, Any], read: frozenset[str], readable: Mapping[str, tuple[Any, ...]] = Tree()
) -> None:
    """Refuses settings but those that are `read`, unset, or among the values `readable` of a field."""
    for field, value in tree.items():
        if value and field not in read and value not in readable.get(field, ()):
            raise InputError(
                f"{folder / CONFIG} has {field}={value!r}, which changes the adapter's function and is not read; merge "
                "it into its base with PEFT, and import the result"
            )
