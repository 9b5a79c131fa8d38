"""`lm-jax inspect`: a recipe's configuration, parameters or batches, the costs of a preset, or a comparison of runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import yaml

from lm_jax import experiment
from lm_jax.core.config import InputError, differences
from lm_jax.core.trees import count
from lm_jax.data import atomic
from lm_jax.flags import Request, need_config
from lm_jax.models.model import build_model
from lm_jax.parallel import mesh
from lm_jax.parallel.layout import Layout
from lm_jax.train import curves, metrics
from lm_jax.verbs import architecture, batch, report

MOST_DIFFERENCES = 20  # Printed per run, because models of different kinds differ in nearly every key.


def run(request: Request) -> int:
    """Shows a recipe (`--config`), a run (`--workdir`), a preset (`NAME:SIZE`), or compares runs (directories).

    With `--batch`, shows rows of a training batch of the recipe or run instead.
    """
    runs = [*([request.workdir] if request.workdir else []), *request.words]
    if runs and request.config is not None:
        raise InputError(f"inspect shows a recipe or runs: leave out --config={request.recipe}, or {runs[0]}")
    if request.batch is not None and (request.words or not (runs or request.config)):
        raise InputError("inspect --batch=STEP needs --config=RECIPE or --workdir=DIR, and nothing else")
    if request.batch is None and request.rows is not None:
        raise InputError("inspect --rows is the number of rows to show of a batch; add --batch=STEP")
    if request.batch is not None:
        batch.show(request, request.batch)
        return 0
    presets = [word for word in request.words if not Path(word).is_dir()]
    if presets and len(runs) > 1:
        raise InputError(f"inspect shows one preset, or runs: {presets[0]} is not a directory; leave out the others")
    if presets:
        architecture.show(presets[0], json=request.json)
        return 0
    if runs:
        return _runs(request, [Path(run) for run in runs])
    if request.config is None:
        raise InputError("inspect needs --config=RECIPE, PRESET[:SIZE], --workdir=DIR or the directories of runs")
    return _recipe(request)


def _recipe(request: Request) -> int:
    config = need_config(request)
    # Without text there is no tokenizer: use the vocabulary size that the recipe sets.
    vocab = config.model.embed.vocab or config.data.tokenizer.target_size
    models = [build_model(model, vocab) for model in (config.model, *config.models.values())]
    if request.json:
        parameters = sum(count(model.shapes) for model in models)
        report.document({"config": dataclasses.asdict(config), "parameters": parameters})
        return 0
    report.say(yaml.safe_dump(experiment.as_json(config), sort_keys=False))
    for model in models:
        report.say(report.parameters(model, Layout(mesh.make(config.mesh), config.rules)).rstrip())
    return 0


def _runs(request: Request, runs: list[Path]) -> int:
    results = {label: final(metrics.read(run)) for label, run in zip(curves.labels(runs), runs, strict=True)}
    configs = {label: experiment.saved(run) or {} for label, run in zip(results, runs, strict=True)}
    first, *others = configs
    changed = {label: differences(configs[first], configs[label]) for label in others}
    output = Path(request.output or runs[0] / "plots" / ("compared.png" if others else "curves.png"))
    if request.output:
        atomic.check_file(output, "--output")
    curves.plot(runs, output)
    if request.json:
        report.document({"runs": results, "differences": changed, "plot": str(output)})
        return 0
    report.say(table(results))
    for label, lines in changed.items():
        report.say(f"configuration of {first} -> {label}" + ("" if lines else ": no difference"))
        for line in lines[:MOST_DIFFERENCES]:
            report.say(f"  {line}")
        if len(lines) > MOST_DIFFERENCES:
            report.say(f"  and {len(lines) - MOST_DIFFERENCES} more; --json lists all")
    report.say(f"curves in {output}")
    return 0


def final(entries: list[dict[str, float]]) -> dict[str, float]:
    """Returns the latest value of every metric, and the best validation loss with its step."""
    values: dict[str, float] = {}
    for entry in entries:
        values |= entry
    validated = [(entry["val/loss"], entry["step"]) for entry in entries if "val/loss" in entry]
    if validated:
        values["val/loss best"], values["val/loss best at"] = min(validated)
    return values


def table(results: dict[str, dict[str, float]]) -> str:
    """Formats a table with a row per metric and a column per run."""
    rows = dict.fromkeys(name for values in results.values() for name in values if name != "train/eta_s")
    width = {label: max(len(label), 12) + 2 for label in results}
    lines = [f"{'':<38}" + "".join(f"{label:>{width[label]}}" for label in results)]
    for name in rows:
        cells = (_cell(name, values.get(name)).rjust(width[label]) for label, values in results.items())
        lines.append(f"{name:<38}{''.join(cells)}")
    return "\n".join(lines)


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    is_count = name in ("step", "train/tokens", "val/loss best at")
    return f"{value:,.0f}" if is_count or abs(value) >= 1e4 else f"{value:.4g}" if abs(value) < 1e-2 else f"{value:.4f}"
