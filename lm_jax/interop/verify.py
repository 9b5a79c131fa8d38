"""Compares what we compute with stored results of a reference implementation, output by output."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lm_jax.core.config import InputError
from lm_jax.interop.outputs import run

# What a float32 result may differ by where the case does not say.
DEFAULT_TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """One output.

    Attributes:
      name: the reference's name of it.
      difference: the largest absolute one, where the masks are 1; for token ids, how many differ.
      tolerance: what is allowed.
    """

    name: str
    difference: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the difference is allowed; a NaN is not."""
        return self.difference <= self.tolerance


def verify(case: Path, model: Path | None = None) -> tuple[list[Comparison], list[str]]:
    """Compares a case directory (`inputs.npz`, `outputs.npz`, `meta.json`, and the checkpoint) with what we compute.

    Args:
      case: the directory.
      model: the checkpoint, where it is not the case's own.

    Returns:
      A comparison for every stored output that we compute, and the names of those that we do not.
    """
    inputs, stored = _arrays(case / "inputs.npz"), _arrays(case / "outputs.npz")
    meta = json.loads((case / "meta.json").read_text()) if (case / "meta.json").is_file() else {}
    if "gen_eos_token_id" in stored:
        inputs["gen_eos_token_id"] = stored["gen_eos_token_id"]
    found = run(case if model is None else model, inputs)
    common = [name for name in stored if name in found]
    if not common:
        raise InputError(f"{case}: none of its outputs is one that this model computes")
    tolerances = meta.get("tolerance", {})
    compared = [_compare(name, found[name], stored[name], inputs, tolerances) for name in common]
    passed = ("gen_eos", "gen_greedy_min")
    return compared, [name for name in stored if name not in found and not name.startswith(passed)]


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
    """Which tolerance of meta.json is meant."""
    if name == "loss":
        return "loss_abs"
    if name in ("sentence_embeddings", "cosine_similarity"):
        return "embeddings_abs"
    return "grad_abs" if name.startswith("grad") else "gen_score_abs" if name.startswith("gen_") else "forward_abs"


def _mask(name: str, array: np.ndarray, inputs: Mapping[str, Any]) -> np.ndarray | None:
    """Where an output counts: at tokens that are not padding; None everywhere."""
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
