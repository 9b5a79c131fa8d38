"""Compares our outputs with stored outputs of a reference implementation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lm_jax.core.config import InputError
from lm_jax.interop.outputs import run

# Absolute tolerance of float32 outputs for which the case's meta.json has none.
DEFAULT_TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparison of one output.

    Attributes:
      name: the reference's name of the output.
      difference: the largest absolute difference outside padding; for token ids, the number that differ.
      tolerance: the largest allowed difference.
    """

    name: str
    difference: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance; False for NaN."""
        return self.difference <= self.tolerance


def verify(case: Path, model: Path | None = None) -> tuple[list[Comparison], list[str]]:
    """Compares our outputs with those of a case directory (`inputs.npz`, `outputs.npz`, `meta.json`, a checkpoint).

    `model` is the directory of the checkpoint; None: `case`.

    Returns:
      A comparison for every stored output that we compute, and the names of those that we do not compute.
    """
    inputs, stored = _arrays(case / "inputs.npz"), _arrays(case / "outputs.npz")
    meta = json.loads((case / "meta.json").read_text()) if (case / "meta.json").is_file() else {}
    if "gen_eos_token_id" in stored:
        inputs["gen_eos_token_id"] = stored["gen_eos_token_id"]
    outputs = run(case if model is None else model, inputs)
    common = [name for name in stored if name in outputs]
    if not common:
        raise InputError(f"{case}: this model computes none of the stored outputs")
    tolerances = meta.get("tolerance", {})
    compared = [_compare(name, outputs[name], stored[name], inputs, tolerances) for name in common]
    ignored = ("gen_eos", "gen_greedy_min")
    return compared, [name for name in stored if name not in outputs and not name.startswith(ignored)]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError(f"{path.parent} holds no {path.name}; give the directory of a reference case")
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _compare(
    name: str, ours: np.ndarray, theirs: np.ndarray, inputs: Mapping[str, Any], tolerances: Mapping[str, float]
) -> Comparison:
    tolerance = tolerances.get(_tolerance(name), DEFAULT_TOLERANCE)
    if ours.shape != theirs.shape:
        return Comparison(name=name, difference=float("inf"), tolerance=tolerance)
    if np.issubdtype(theirs.dtype, np.integer):
        return Comparison(name=name, difference=float((ours != theirs).sum()), tolerance=0)
    difference = np.abs(ours.astype(np.float64) - theirs)
    mask = _mask(name, theirs, inputs)
    difference = difference if mask is None else difference[mask]
    worst = float(difference.max()) if difference.size else 0.0
    return Comparison(name=name, difference=worst, tolerance=tolerance)


def _tolerance(name: str) -> str:
    """The key of an output's tolerance in meta.json."""
    if name == "loss":
        return "loss_abs"
    if name in ("sentence_embeddings", "cosine_similarity"):
        return "embeddings_abs"
    return "grad_abs" if name.startswith("grad") else "gen_score_abs" if name.startswith("gen_") else "forward_abs"


def _mask(name: str, array: np.ndarray, inputs: Mapping[str, Any]) -> np.ndarray | None:
    """Mask of the values to compare: padding is left out; None: all values."""
    if name.startswith(("grad", "gen_")):
        return None
    decoder = "decoder_input_ids" in inputs and not name.startswith("encoder_")
    mask = inputs.get("decoder_attention_mask" if decoder else "attention_mask")
    if mask is None or array.ndim < 2:
        return None
    attended = np.asarray(mask)[: array.shape[0] if name.endswith("_first2") else None] > 0
    if "attentions/" in name:
        # [batch, heads, query, key]
        return np.broadcast_to(attended[:, None, :], array.shape[:3])
    return attended if array.shape[:2] == attended.shape else None
