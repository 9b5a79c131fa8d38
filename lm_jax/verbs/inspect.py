"""`lm-jax inspect`: the configuration and parameters of a recipe, or the loss curves and results of runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import yaml

from lm_jax import experiment
from lm_jax.core.config import InputError
from lm_jax.core.trees import count
from lm_jax.flags import Request, need_config
from lm_jax.parallel import mesh
from lm_jax.parallel.layout import Layout
from lm_jax.train import logging
from lm_jax.verbs import report


def run(request: Request) -> int:
    """Shows a recipe (`--config`), a run (`--workdir`), or compares runs (several directories as words)."""
    runs = [*request.words, *([request.workdir] if request.workdir else [])]
    if runs:
        return _runs(request, runs)
    if request.config is None:
        raise InputError("inspect needs --config=RECIPE, --workdir=DIR or the directories of runs")
    return _recipe(request)


def _recipe(request: Request) -> int:
    config = need_config(request)
    # Without text there is no tokenizer yet: the size that the recipe asks for.
    model = experiment.build_model(config.model, config.model.embed.vocab or config.data.tokenizer.vocab)
    if request.json:
        report.say(json.dumps({"config": dataclasses.asdict(config), "parameters": count(model.shapes)}))
        return 0
    report.say(yaml.safe_dump(experiment.as_json(config), sort_keys=False))
    report.say(report.parameters(model, Layout(mesh.make(config.mesh))).rstrip())
    return 0


def _runs(request: Request, runs: list[str]) -> int:
    output = Path(request.output or Path(runs[0]) / "loss.png")
    rows = {name: _last(logging.read(name)) for name in runs}
    logging.plot(runs, output)
    if request.json:
        report.say(json.dumps({"runs": rows, "plot": str(output)}))
        return 0
    for name, values in rows.items():
        shown = ", ".join(
            f"{key} {value:.4f}" for key, value in values.items() if key.startswith(("val/", "train/loss"))
        )
        report.say(f"{name}: step {values['step']:.0f}, {shown}")
    report.say(f"loss curves in {output}")
    return 0


def _last(entries: list[dict[str, float]]) -> dict[str, float]:
    """The latest value of every metric."""
    values: dict[str, float] = {}
    for entry in entries:
        values |= entry
    return values
