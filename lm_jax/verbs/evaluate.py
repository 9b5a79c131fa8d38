"""`lm-jax evaluate`: evaluates a trained model on its dev files or the validation part of its text, or on another text.

The other text, `--config.data.path=OTHER`, is tokenised by the run's tokenizer, and has its labels; by default, all of
it is evaluated.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from lm_jax import experiment
from lm_jax.core.config import InputError
from lm_jax.data import atomic
from lm_jax.data.clean import report as reports
from lm_jax.data.columns import parse
from lm_jax.data.config import DataConfig
from lm_jax.data.kinds import KINDS
from lm_jax.data.mixture import MixtureConfig
from lm_jax.flags import Request, need_workdir
from lm_jax.verbs import report
from lm_jax.verbs.runs import open_run, restore


def run(request: Request) -> int:
    """Prints loss, perplexity, bits per byte and accuracies."""
    if request.output:
        atomic.check_file(Path(request.output), "--output")
    exp = open_run(request)
    data, overrides = exp.config.data, request.overrides
    tokenizer = dataclasses.replace(data.tokenizer, path=str(Path(need_workdir(request)) / "tokenizer"))
    other = any(re.match(r"--config\.data\.(columns\.[^.=]+\.)?path=", word) for word in overrides)
    data = dataclasses.replace(data, tokenizer=tokenizer)
    if other:
        _check_columns(data, overrides, exp.labels)
        is_set = any(word.startswith("--config.data.validation") for word in overrides)
        validation = data.validation if is_set else 1.0
        data = dataclasses.replace(data.without_dev(), mixture=MixtureConfig(), validation=validation)
    with report.Progress() as progress:
        labels = exp.labels if other else None
        exp = experiment.prepare(dataclasses.replace(exp.config, data=data), progress, labels=labels)
    for line in reports.summary(exp.tokens.report) if other else ():
        report.warn(line)
    rows, name = exp.feed.rows("validation"), data.dev_name or data.name
    if not len(rows):
        raise InputError(
            f"there is nothing to evaluate on: config.data.validation is {data.validation:g}, which leaves no row of "
            f"{name}; give --config.data.path=OTHER, or a larger --config.data.validation"
        )
    step, weights = restore(request, exp)
    values = dict(exp.validation().run(weights))
    result = {"step": step, "path": name, "rows": len(rows), **values}
    if request.json:
        report.document(result)
    else:
        report.say(f"step {step} of {request.workdir} on {name}, {len(rows):,} validation rows")
        for metric, value in values.items():
            report.say(f"  {metric:<28}{value:.4f}")
    if request.output:
        atomic.write_json(Path(request.output), result)
    return 0


def _check_columns(data: DataConfig, overrides: Sequence[str], labels: Collection[str]) -> None:
    """Refuses another text if its labels could get other ids than the run's, or if no column reads it.

    `labels` are the columns of which the run has the names of the labels.
    """
    columns = parse(data.columns)
    named = {kind for kind, each in KINDS.items() if each.named}
    given = {*labels, *(name for name, column in columns.items() if column.names)}
    unnamed = [name for name, column in columns.items() if column.kind in named and name not in given]
    if unnamed:
        key = f"config.data.columns.{unnamed[0]}.names"
        raise InputError(
            f"{key} is not set, and another text may have other labels; give --{key}=... in the run's order"
        )
    overridden = any(re.match(r"--config\.data\.columns\.[^.=]+\.path=", word) for word in overrides)
    if columns and all(column.path for column in columns.values()) and not overridden:
        raise InputError("every column has its own path: give --config.data.columns.NAME.path, not config.data.path")
