"""Plots of the metrics of one or several runs, from their `metrics.jsonl`."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_jax.core.config import InputError
from lm_jax.data import atomic
from lm_jax.train.metrics import read

# The first panels, in this order; the other metrics of the objective and the evaluator follow.
FIRST = ("loss", "learning_rate", "gradient_norm", "tokens_per_second")
# Metrics without a panel: functions of the step or of another panel's metric.
OMITTED = ("tokens", "tokens_per_second_per_device", "mfu", "eta_s", "perplexity")
COLUMNS = 2


def plot(
    workdirs: str | os.PathLike | Sequence[str | os.PathLike],
    path: str | os.PathLike,
    metrics: Sequence[str] | None = None,
) -> Path | None:
    """Plots one panel per metric: smoothed training curves over the faint raw ones, validation as points.

    Args:
      workdirs: of one or several runs, each labelled by its directory's name.
      path: the PNG file to write.
      metrics: names without `train/` or `val/`; those that no run has are left out. None: all.

    Returns:
      `path`, or None if no run has one of the metrics: no file is written.

    Raises:
      InputError: a directory has no metrics, or no run has a loss.
    """
    from matplotlib.figure import Figure

    runs = [Path(run) for run in ([workdirs] if isinstance(workdirs, (str, os.PathLike)) else workdirs)]
    by_run = dict(zip(labels(runs), map(_curves, runs), strict=True))
    if not any(name == "loss" for curves in by_run.values() for _, name in curves):
        raise InputError(f"no train/loss or val/loss in {', '.join(map(str, runs))}; train first")
    names = [name for name in panels(by_run) if metrics is None or name in metrics]
    if not names:
        return None
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    width, height = 6 * columns, 3.2 * rows
    figure = Figure(figsize=(width, height), dpi=110)
    # Margins in inches. Laying the panels out by their labels would take longer than drawing them.
    figure.subplots_adjust(
        left=0.9 / width, right=1 - 0.15 / width, bottom=0.5 / height, top=1 - 0.4 / height, wspace=0.2, hspace=0.25
    )
    for position, name in enumerate(names, 1):
        axes = figure.add_subplot(rows, columns, position)
        for index, (label, curves) in enumerate(by_run.items()):
            _draw(axes, curves, name, f"{label} " if len(by_run) > 1 else "", f"C{index % 10}")
        _decorate(axes, name)
    figure.suptitle(next(iter(by_run)) if len(by_run) == 1 else "")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.replace_atomically(path) as partial:
        figure.savefig(partial, format="png")
    return path


def labels(runs: Sequence[Path]) -> list[str]:
    """Returns a label for each run: the name of its directory, or the path if names repeat."""
    names = [run.resolve().name for run in runs]
    return [name if names.count(name) == 1 else str(run) for name, run in zip(names, runs, strict=True)]


def panels(by_run: dict[str, dict[tuple[str, str], Any]]) -> list[str]:
    """Returns the metrics to plot, in the order of their panels."""
    names = dict.fromkeys(name for curves in by_run.values() for _, name in curves)
    return [name for name in FIRST if name in names] + [name for name in names if name not in (*FIRST, *OMITTED)]


Curves = dict[tuple[str, str], tuple[list[float], list[float]]]


def _curves(run: Path) -> Curves:
    """Returns steps and finite values by (subset of the data, metric)."""
    curves: Curves = {}
    for entry in read(run):
        for key, value in entry.items():
            subset, slash, name = key.partition("/")
            if slash and math.isfinite(value):
                steps, values = curves.setdefault((subset, name), ([], []))
                steps.append(entry["step"])
                values.append(value)
    return curves


def _draw(axes: Any, curves: Curves, name: str, prefix: str, colour: str) -> None:
    if ("train", name) in curves:
        steps, values = curves["train", name]
        axes.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
        axes.plot(steps, smoothed(values), color=colour, linewidth=1.6, label=f"{prefix}train")
    if ("val", name) in curves:
        axes.plot(*curves["val", name], "o--", color=colour, markersize=4, linewidth=1, label=f"{prefix}validation")


def _decorate(axes: Any, name: str) -> None:
    """Sets labels, and limits from the smoothed curves, so that a single spike does not dominate."""
    values = sorted(value for line in axes.get_lines() if line.get_alpha() is None for value in line.get_ydata())
    if name == "loss" and values:
        margin = 0.05 * (values[-1] - values[0]) or 0.05
        axes.set_ylim(values[0] - margin, values[-1] + margin)
    axes.set(xlabel="step", ylabel=name.replace("_", " "))
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_lines():
        axes.legend(frameon=False, fontsize="small")


def smoothed(values: Sequence[float], share: float = 0.02) -> list[float]:
    """Returns the bias-corrected exponential moving average over about `share` of the values."""
    decay = 1 - 1 / max(1.0, share * len(values))
    total = weight = 0.0
    result = []
    for value in values:
        total, weight = decay * total + value, decay * weight + 1
        result.append(total / weight)
    return result
