"""`lm-jax inspect --batch=STEP`: rows of a training batch as text, or with --json the arrays that the step receives.

The text follows the objective's `spec`: a predicted token is `{read -> predicted}`, or `{= predicted}` if it is read
unchanged; `|` is a border between texts that do not attend to each other; special tokens are shown by name.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from lm_jax import experiment
from lm_jax.core.config import InputError
from lm_jax.data import pipeline
from lm_jax.data.mixture import Labelled
from lm_jax.data.tokenizers import Tokenizer
from lm_jax.decode import prompting
from lm_jax.experiment import Experiment
from lm_jax.flags import Request, need_config
from lm_jax.objectives.base import Field
from lm_jax.verbs import forking, report
from lm_jax.verbs.runs import open_run

SHOWN_ROWS, WIDTH = 4, 116


def show(request: Request, step: int) -> None:
    """Prints the first `--rows` rows of the training batch of a step, counted from 0."""
    exp = _experiment(request)
    size = exp.config.data.batch
    rows = request.rows or (size if request.json else min(SHOWN_ROWS, size))
    if step < 0 or not 0 < rows <= size:
        raise InputError(
            f"--batch={step} --rows={rows}: expected a step from 0 on, and 1 to {size} rows (config.data.batch)"
        )
    plan, places, seed = exp.feed.rows("train"), np.arange(rows), exp.config.seed
    settings = {"seed": seed, "batch": size, "local": places, "buckets": exp.buckets}
    batch = pipeline.batch_at(plan, exp.objective.features, step, **settings)
    name = exp.config.objective.name
    if request.json:
        arrays = {field: array.tolist() for field, array in batch.items()}
        report.document({"step": step, "batch": size, "seed": seed, "objective": name, "arrays": arrays})
        return
    report.say(f"batch of step {step}: {rows} of {size} rows; objective {name}, row plan {_plan(exp)}")
    filled = plan.filling(step * size + places, seed)
    for place, (rows_of, _, epoch, number) in enumerate(filled):
        part = f" of part {rows_of.name}" if isinstance(rows_of, Labelled) else ""
        report.say(f"\nrow {place}: number {number:,} of epoch {epoch}{part}")
        features = {field: batch[field][place] for field in exp.objective.spec}
        for line in describe(exp.tokenizer, exp.objective.spec, features):
            report.say(line)


def _experiment(request: Request) -> Experiment:
    inherited = None
    if request.config is not None:
        config = need_config(request)
        inherited = None if request.fork is None else forking.tokenizer(config.data.tokenizer, Path(request.fork))
    else:
        config = open_run(request).config
        tokenizer = dataclasses.replace(config.data.tokenizer, path=str(Path(request.workdir or "") / "tokenizer"))
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, tokenizer=tokenizer))
    with report.Progress() as progress:
        return experiment.prepare(config, progress, inherited)


def _plan(exp: Experiment) -> str:
    chosen = exp.config.data.rows.plan
    return exp.objective.reads.plan if chosen == "auto" else chosen


def describe(tokenizer: Tokenizer, spec: Mapping[str, Field], row: Mapping[str, np.ndarray]) -> list[str]:
    """Returns the lines that describe the features of one row."""
    labels = {name: field for name, field in spec.items() if field.ids and field.at}
    places = {field.at for field in labels.values()}
    # Shown by the lengths of the fields that they belong to.
    places |= {field.used for field in spec.values() if field.used and (np.diff(row[field.used].clip(0, 1)) <= 0).all()}
    lines, numbers = [], []
    for name, field in spec.items():
        value = row[name]
        if field.ids and not field.at:
            marks = _marks(row, labels) if name == "tokens" else {}
            segments = row.get("source_segments" if name == "source" else "segments")
            lines += _text(tokenizer, name, value[: _length(row, field)], len(value), marks, segments)
        elif field.at:
            used = int((row[field.used] > 0).sum()) if field.used else len(value)
            lines.append(f"  {name}: {used} of at most {len(value)}")
        elif not field.shape:
            numbers.append(f"{name} {value:g}")
        elif name not in places:
            lines.append(f"  {name}: {_runs(value)}")
    return lines + ([f"  {', '.join(numbers)}"] if numbers else [])


def _length(row: Mapping[str, np.ndarray], field: Field) -> int:
    """The number of entries before the padding at the end."""
    used = np.flatnonzero(row[field.used] > 0) if field.used else np.arange(field.shape[0])
    return int(used[-1]) + 1 if len(used) else 0


def _marks(row: Mapping[str, np.ndarray], labels: Mapping[str, Field]) -> dict[int, int]:
    """The id to predict at each predicted position."""
    marks: dict[int, int] = {}
    for name, field in labels.items():
        used = row[field.used] > 0 if field.used else np.ones(field.shape, bool)
        marks |= dict(zip(row[field.at][used].tolist(), row[name][used].tolist(), strict=True))
    return marks


def _text(
    tokenizer: Tokenizer,
    name: str,
    ids: Int[np.ndarray, " tokens"],
    size: int,
    marks: Mapping[int, int],
    segments: np.ndarray | None,
) -> list[str]:
    padding = f", {size - len(ids)} of padding" if len(ids) < size else ""
    borders = [] if segments is None else (np.flatnonzero(np.diff(segments[: len(ids)])) + 1).tolist()
    wrapped = textwrap.wrap(
        spell(tokenizer, ids, marks, borders),
        WIDTH,
        initial_indent="    ",
        subsequent_indent="    ",
        drop_whitespace=False,
        break_on_hyphens=False,
    )
    return [f"  {name}: {len(ids)} tokens{padding}", *(line.rstrip() for line in wrapped)]


def spell(
    tokenizer: Tokenizer, ids: Int[np.ndarray, " tokens"], marks: Mapping[int, int], borders: Sequence[int]
) -> str:
    """Returns the text of ids, with special tokens by name, predicted tokens in braces and `|` before each border."""
    special = lambda token: token >= len(tokenizer.special) or tokenizer.special[token]
    stops = {*marks, *(place + 1 for place in marks), *borders, 0, len(ids)}
    for place in np.flatnonzero([special(token) for token in ids.tolist()]).tolist():
        stops |= {place, place + 1}
    result, ordered = "", sorted(stops)
    for start, stop in zip(ordered[:-1], ordered[1:], strict=True):
        token = int(ids[start])
        if special(token):
            text = tokenizer.piece(token)
        else:
            text = prompting.continuation(tokenizer, ids[:start], ids[start:stop])
        if start in borders:
            result += " | "
        if start in marks:
            label = marks[start]
            full = tokenizer.piece(label) if special(label) else prompting.continuation(tokenizer, ids[:start], [label])
            name = full.strip(" ") or tokenizer.piece(label)
            space = " " * (len(full) - len(full.lstrip(" ")))
            text = f"{space}{{= {name}}}" if label == token else f"{space}{{{text.strip(' ')} -> {name}}}"
        result += text
    return result.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


def _runs(values: np.ndarray) -> str:
    """Returns an array as runs of equal or of consecutive numbers: `0 x 12, 1 x 20` or `0..11, 0..19`."""
    numbers, runs, start = values.tolist(), [], 0
    while start < len(numbers):
        stop, step = start + 1, None
        while stop < len(numbers) and numbers[stop] - numbers[stop - 1] in ((0, 1) if step is None else (step,)):
            step = numbers[stop] - numbers[stop - 1]
            stop += 1
        first, last, count = numbers[start], numbers[stop - 1], stop - start
        runs.append(f"{first:g}" if count == 1 else f"{first:g}..{last:g}" if step else f"{first:g} x {count}")
        start = stop
    return ", ".join(runs)
