"""Curves of one run or of several, drawn from their `metrics.jsonl`."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_jax.core.config import InputError
from lm_jax.data import atomic
from lm_jax.train import metrics

# One panel each, in this order; then whatever else the objective and the evaluator measured.
FIRST = ("loss", "learning_rate", "gradient_norm", "tokens_per_second")
# Told by another panel: a run's clock, and rates and losses in other units.
LEFT_OUT = ("tokens", "tokens_per_second_per_device", "mfu", "eta_s", "perplexity")
COLUMNS = 2


def plot(workdirs: str | os.PathLike | Sequence[str | os.PathLike], path: str | os.PathLike) -> Path:
    """Draws a panel a metric: training smoothed over its own faint trace, validation as points.

    Args:
      workdirs: one run or several; each is labelled by the name of its directory.
      path: the PNG file to write.

    Raises:
      InputError: a directory without metrics, or without any loss.
    """
    from matplotlib.figure import Figure

    runs = [Path(run) for run in ([workdirs] if isinstance(workdirs, (str, os.PathLike)) else workdirs)]
    found = dict(zip(labels(runs), map(_curves, runs), strict=True))
    if not any(name == "loss" for curves in found.values() for _, name in curves):
        raise InputError(f"no train/loss or val/loss in {', '.join(map(str, runs))}; train first")
    names = panels(found)
    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(6 * min(COLUMNS, len(names)), 3.2 * rows), dpi=110, layout="constrained")
    for place, name in enumerate(names, 1):
        axes = figure.add_subplot(rows, min(COLUMNS, len(names)), place)
        for index, (label, curves) in enumerate(found.items()):
            _draw(axes, curves, name, f"{label} " if len(found) > 1 else "", f"C{index % 10}")
        _finish(axes, name)
    figure.suptitle(next(iter(found)) if len(found) == 1 else "")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.replacing(path) as partial:
        figure.savefig(partial, format="png")
    return path


def labels(runs: Sequence[Path]) -> list[str]:
    """What to call each run: the name of its directory, or the whole path where names repeat."""
    names = [run.resolve().name for run in runs]
    return [name if names.count(name) == 1 else str(run) for name, run in zip(names, runs, strict=True)]


def panels(found: dict[str, dict[tuple[str, str], Any]]) -> list[str]:
    """The metrics to draw, in order."""
    known = dict.fromkeys(name for curves in found.values() for _, name in curves)
    return [name for name in FIRST if name in known] + [name for name in known if name not in (*FIRST, *LEFT_OUT)]


Curves = dict[tuple[str, str], tuple[list[float], list[float]]]


def _curves(run: Path) -> Curves:
    """Steps and finite values by (part of the data, metric)."""
    curves: Curves = {}
    for entry in metrics.read(run):
        for key, value in entry.items():
            part, slash, name = key.partition("/")
            if slash and math.isfinite(value):
                steps, values = curves.setdefault((part, name), ([], []))
                steps.append(entry["step"])
                values.append(value)
    return curves


def _draw(axes: Any, curves: Curves, name: str, prefix: str, colour: str) -> None:
    """One run's curves in one panel."""
    if ("train", name) in curves:
        steps, values = curves["train", name]
        smooth = smoothed(values)
        axes.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
        axes.plot(steps, smooth, color=colour, linewidth=1.6, label=f"{prefix}train")
    if ("val", name) in curves:
        axes.plot(*curves["val", name], "o--", color=colour, markersize=4, linewidth=1, label=f"{prefix}validation")


def _finish(axes: Any, name: str) -> None:
    """Labels, and limits that a single spike does not set."""
    shown = sorted(value for line in axes.get_lines() if line.get_alpha() is None for value in line.get_ydata())
    if name == "loss" and shown:
        margin = 0.05 * (shown[-1] - shown[0]) or 0.05
        axes.set_ylim(shown[0] - margin, shown[-1] + margin)
    axes.set(xlabel="step", ylabel=name.replace("_", " "))
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_lines():
        axes.legend(frameon=False, fontsize="small")


def smoothed(values: Sequence[float], share: float = 0.02) -> list[float]:
    """An exponential mean that remembers about `share` of the values, without a bias towards the first."""
    decay = 1 - 1 / max(1.0, share * len(values))
    total = weight = 0.0
    result = []
    for value in values:
        total, weight = decay * total + value, decay * weight + 1
        result.append(total / weight)
    return result
