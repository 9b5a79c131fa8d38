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
from lm_jax.train import curves
from lm_jax.verbs import architecture, batch, comparing, forking, report


def run(request: Request) -> int:
    """Shows a recipe (`--config`), a run (`--workdir`), a preset (`NAME:SIZE`), or compares runs (directories).

    With `--batch`, shows rows of a training batch of the recipe or run instead.
    """
    runs = [*([request.workdir] if request.workdir else []), *request.words]
    if runs and request.config is not None:
        raise InputError(f"inspect shows a recipe or runs: leave out --config={request.recipe}, or {runs[0]}")
    if request.fork is not None and request.config is None:
        raise InputError("inspect --fork is the run whose model a recipe takes; add --config=RECIPE")
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
    tokenizer = None if request.fork is None else forking.tokenizer(config.data.tokenizer, Path(request.fork))
    vocab = config.model.embed.vocab or (tokenizer.vocab_size if tokenizer else config.data.tokenizer.target_size)
    models = [build_model(model, vocab) for model in (config.model, *config.models.values())]
    if request.json:
        parameters = sum(count(model.shapes) for model in models)
        report.document({"config": dataclasses.asdict(config), "parameters": parameters})
        return 0
    report.say(yaml.safe_dump(experiment.as_json(config), sort_keys=False))
    for model in models:
        report.say(report.parameters(model, Layout(mesh.make(config.mesh), config.rules)).rstrip())
    return 0


def _runs(request: Request, paths: list[Path]) -> int:
    labels = curves.labels(paths)
    runs = {label: comparing.read(path) for label, path in zip(labels, paths, strict=True)}
    output = Path(request.output or paths[0] / "plots" / ("compared.png" if len(runs) > 1 else "curves.png"))
    if request.output:
        atomic.check_file(output, "--output")
    curves.plot(paths, output)
    results = {label: comparing.final(run.entries) for label, run in runs.items()}
    if request.json:
        configs = {label: experiment.saved(path) or {} for label, path in zip(labels, paths, strict=True)}
        first, *others = configs
        changed = {label: differences(configs[first], configs[label]) for label in others}
        report.document({"runs": results, "differences": changed, "plot": str(output)})
    elif len(runs) > 1:
        report.say("\n".join(comparing.screen(runs)))
        report.say(f"curves in {output}")
    else:
        (label, values), *_ = results.items()
        rows = [(name, [comparing.number(name, value)]) for name, value in values.items() if name != "train/eta_s"]
        report.say("\n".join(comparing.table([label], rows)))
        report.say(f"curves in {output}")
    return 0
