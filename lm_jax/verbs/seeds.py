"""`lm-jax train --config.train.seeds=1,2,3`: one run per seed in WORKDIR/seed-1 and so on, and a table of results.

The runs follow one another; the same command resumes the one that was interrupted.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from lm_jax import experiment
from lm_jax.core.config import InputError
from lm_jax.data import atomic
from lm_jax.flags import Request, need_config
from lm_jax.train import metrics
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.verbs import comparing, report

FILE = "seeds.json"
# Results by name of the metric, such as `loss`; under "step" the step.
Results = Mapping[str, float]


def run(request: Request, workdir: Path, train: Callable[[Request, Path], None]) -> dict[str, Any]:
    """Trains with every seed, prints the table, and writes it to seeds.json.

    Args:
      request: the command, whose configuration has `train.seeds`.
      workdir: the directory of all runs.
      train: trains one run in its directory.

    Returns:
      The content of seeds.json: `seeds`, `mean` and `deviation`, each with the `best` and the `final` evaluation.
    """
    config = need_config(request)
    if experiment.saved(workdir) is not None:
        raise InputError(f"--workdir {workdir} holds a run; give another directory for those of config.train.seeds")
    if "jsonl" not in config.log.writers:
        raise InputError("config.train.seeds reads the metrics.jsonl of its runs; add jsonl to config.log.writers")
    seeds = config.train.seeds
    for number, seed in enumerate(seeds, 1):
        report.say(f"seed {seed}, run {number} of {len(seeds)}")
        train(with_seed(request, seed), folder(workdir, seed))
    summary = summarise({seed: results(folder(workdir, seed)) for seed in seeds})
    if jax.process_index() == 0:
        atomic.write_json(workdir / FILE, summary)
    for line in table(summary):
        report.say(line)
    report.say(f"results in {workdir / FILE}")
    return summary


def folder(workdir: Path, seed: int) -> Path:
    """Returns the directory of the run of a seed."""
    return workdir / f"seed-{seed}"


def with_seed(request: Request, seed: int) -> Request:
    """Returns the command that trains with one seed."""
    config = copy.deepcopy(request.config)
    others = [line for line in request.changed if not line.startswith(("config.train.seeds:", "config.seed:"))]
    changed = (*others, f"config.seed: {config.seed} -> {seed}")
    config.seed = seed
    with config.train.ignore_type():
        config.train.seeds = ()
    return dataclasses.replace(request, config=config, changed=changed)


def results(workdir: Path) -> dict[str, Results]:
    """Returns the validation metrics of a run: of the `best` evaluation, if there is one, and of the `final` one."""
    entries = [entry for entry in metrics.read(workdir) if any(name.startswith("val/") for name in entry)]
    by_step = {
        int(entry["step"]): {name.removeprefix("val/"): value for name, value in entry.items()} for entry in entries
    }
    marked = Checkpointer(workdir / "checkpoints").best_mark().get("step")
    steps = {"best": marked, "final": max(by_step, default=None)}
    return {name: by_step[step] for name, step in steps.items() if step in by_step}


def summarise(by_seed: Mapping[int, Mapping[str, Results]]) -> dict[str, Any]:
    """Returns the results by seed, their mean and their standard deviation (with n - 1; None for a single seed).

    Only metrics that all runs have are summarised. Non-finite numbers are strings, as in `metrics.jsonl`.

    Example:
      >>> runs = {seed: {"final": {"loss": loss}} for seed, loss in ((1, 2.0), (2, 4.0))}
      >>> summary = summarise(runs)
      >>> summary["mean"], round(summary["deviation"]["final"]["loss"], 3)
      ({'final': {'loss': 3.0}}, 1.414)
    """
    runs = list(by_seed.values())
    common = {
        kind: [name for name in runs[0][kind] if all(name in run[kind] for run in runs)]
        for kind in runs[0]
        if all(kind in run for run in runs)
    }

    def over(function: Callable[[Sequence[float]], float | None]) -> dict[str, dict[str, Any]]:
        values = lambda kind, name: [run[kind][name] for run in runs]
        return {kind: {name: function(values(kind, name)) for name in names} for kind, names in common.items()}

    deviation = lambda values: statistics.stdev(values) if len(values) > 1 else None
    finite = lambda function: lambda values: function(values) if all(map(math.isfinite, values)) else math.nan
    return {
        "seeds": report.strict(by_seed),
        "mean": report.strict(over(finite(statistics.fmean))),
        "deviation": report.strict(over(finite(deviation))),
    }


def table(summary: Mapping[str, Any]) -> list[str]:
    """Returns the lines of the table: a row per metric; a column per seed, for the mean and for the deviation."""
    columns = {**{f"seed {seed}": run for seed, run in summary["seeds"].items()}, "mean": summary["mean"]}
    columns |= {"deviation": summary["deviation"]}
    rows = [["", *columns]]
    for kind, names in summary["mean"].items():
        for name in names:
            values = [column[kind][name] for column in columns.values()]
            cells = [comparing.number(name, None if value is None else float(value)) for value in values]
            rows.append([f"{kind} {name}", *cells])
    if len(rows) == 1:
        return ["the runs have no evaluation in common"]
    first, *widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        name.ljust(first) + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, *cells in rows
    ]
