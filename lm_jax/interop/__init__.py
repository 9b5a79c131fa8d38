"""Import, export and compare Hugging Face checkpoints; each family is a file in `tables` and an entry of `TABLES`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def load(path: Path | str, layout: Any = None) -> tuple[Any, Any]:
    """Load a model and its float32 parameters from a Hugging Face checkpoint.

    Args:
      path: a directory with config.json and model.safetensors, or shards and their index.
      layout: a `Layout` to shard the parameters by; None: they are on one device.

    Returns:
      A Linen module and its parameters: `model.apply({"params": params}, Inputs(tokens=...), logits=True).logits`.

    Raises:
      InputError: the checkpoint is incomplete, damaged or not supported.

    Example:
      >>> from lm_jax import interop
      >>> model, params = interop.load("tests/golden/huggingface_gpt2")
      >>> model.config.stack.depth, params["token"]["embedding"].shape
      (2, (512, 8))
    """
    return importlib.import_module("lm_jax.interop.huggingface").load(path, layout)


def run(path: Path | str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Compute all outputs of a checkpoint for some inputs, with matrix products in full float32 precision.

    Args:
      path: a directory with config.json and safetensors.
      inputs: arrays by the names of the reference's `forward`: `input_ids`, `attention_mask`, `token_type_ids`,
        `decoder_input_ids`, `decoder_attention_mask`, `labels` ... Labels add the loss and its gradients;
        `gen_input_ids` (and `gen_attention_mask`, `gen_eos_token_id`) adds greedy continuations of 20 tokens.

    Returns:
      Arrays by the reference's names: `logits`, `base/last_hidden_state`, `hidden_states/0`, `attentions/0`, `loss`,
      `grad_global_norm`, `grad_norm/NAME`, `grad/NAME`, `gen_greedy_sequences` ...

    Raises:
      InputError: the checkpoint is not supported, or an input is missing.

    Example:
      >>> from lm_jax import interop
      >>> outputs = interop.run("tests/golden/text_llama", {"input_ids": [[1, 2, 3]]})
      >>> outputs["logits"].shape, outputs["attentions/0"].shape
      ((1, 3, 700), (1, 2, 3, 3))
    """
    return importlib.import_module("lm_jax.interop.outputs").run(path, inputs)
