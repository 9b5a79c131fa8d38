"""Weights of other libraries: Hugging Face checkpoints in, out, and compared.

`load(path)` gives a model and its parameters; `run(path, inputs)` what a checkpoint computes, under the reference
implementation's names. Adding a family: a file in `tables` and a line in its `TABLES`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def load(path: Path | str, layout: Any = None) -> tuple[Any, Any]:
    """A model and its parameters from a Hugging Face checkpoint; see `lm_jax.interop.huggingface.load`."""
    return importlib.import_module("lm_jax.interop.huggingface").load(path, layout)


def run(path: Path | str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What a Hugging Face checkpoint computes; see `lm_jax.interop.outputs.run`."""
    return importlib.import_module("lm_jax.interop.outputs").run(path, inputs)
