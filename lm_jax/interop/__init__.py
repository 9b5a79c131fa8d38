"""Import, export and compare Hugging Face checkpoints; each family is a file in `tables` and an entry of `TABLES`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def load(path: Path | str, layout: Any = None) -> tuple[Any, Any]:
    """Load a model and its parameters from a Hugging Face checkpoint; see `lm_jax.interop.huggingface.load`.

    Example:
      >>> from lm_jax import interop
      >>> model, params = interop.load("tests/golden/huggingface_gpt2")
      >>> model.config.stack.depth, params["token"]["embedding"].shape
      (2, (512, 8))
    """
    return importlib.import_module("lm_jax.interop.huggingface").load(path, layout)


def run(path: Path | str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Compute the outputs of a Hugging Face checkpoint; see `lm_jax.interop.outputs.run`.

    Example:
      >>> from lm_jax import interop
      >>> outputs = interop.run("tests/golden/text_llama", {"input_ids": [[1, 2, 3]]})
      >>> outputs["logits"].shape, outputs["attentions/0"].shape
      ((1, 3, 700), (1, 2, 3, 3))
    """
    return importlib.import_module("lm_jax.interop.outputs").run(path, inputs)
