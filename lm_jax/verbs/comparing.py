"""The screen that compares runs: results side by side, then the settings that all of them read and that differ."""

from __future__ import annotations

import dataclasses
import datetime
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_jax import experiment
from lm_jax.core.config import InputError
from lm_jax.models.attention.config import POSITIONS
from lm_jax.objectives import OBJECTIVES
from lm_jax.train import curves, metrics
from lm_jax.train.optimizers import OPTIMIZERS
from lm_jax.verbs import report

WIDTH, LINES = 100, 24  # Of a screen: columns, and lines for two runs.
KEY_WIDTH, OWNER_WIDTH = 44, 20
RUNS_PER_BLOCK = 4  # Further runs are shown in further blocks.
MOST_METRICS = 5  # Of the objectives' validation metrics, besides those with their own place in the table.
MOST_PARTIAL = 5  # Lines about settings that only some runs have.
SEPARATE = ("loss", "bits_per_byte", "loss best", "loss best at", *curves.OMITTED)
# Settings that one value of `name` or `position` beside them reads, such as `optimizer.adamw` for `adamw`.
ALTERNATIVES = {*OPTIMIZERS, *OBJECTIVES, *POSITIONS}
# Sections whose settings are comparable only if this one is the same.
CHOICES = (("model", "model.kind"), ("objective", "objective.name"))
SECTIONS = ("model", "models", "objective", "data", "conventions", "optimizer", "train", "seed", "mesh", "rules")
# Where prepared text is stored and how it is loaded: without influence on the results.
IDLE = ("data.store", "data.workers", "data.threads", "data.prefetch")
# A tokenizer that is loaded does not read how to train one.
TRAINED = ("kind", "vocab", "vocab_at_most", "character_coverage", "split_digits", "sample_bytes")

Row = tuple[str, list[str]]  # A name, and a cell per run.


@dataclasses.dataclass(frozen=True)
class Run:
    """A run to compare.

    Attributes:
      entries: the lines of `metrics.jsonl`.
      settings: those that the run reads, by key (`read_settings`); empty if the directory has no configuration.
      parameters: the number of parameters, as text; empty: unknown.
    """

    entries: Sequence[Mapping[str, float]]
    settings: Mapping[str, Any]
    parameters: str = ""


def read(workdir: Path) -> Run:
    """Reads a run's metrics, configuration and number of parameters; InputError without metrics."""
    config, info = experiment.saved(workdir) or {}, workdir / "model_info.txt"
    try:
        config = experiment.as_json(experiment.parse(config))
    except InputError as error:
        if config:
            report.warn(f"{workdir / experiment.SAVED} has settings of another version, read as they are: {error}")
    total = re.search(r"^([\d,]+) parameters", info.read_text(), re.MULTILINE) if info.exists() else None
    return Run(metrics.read(workdir), read_settings(config), total[1] if total else "")


def screen(runs: Mapping[str, Run]) -> list[str]:
    """Returns the lines that compare runs, at most `LINES` - 1 for two runs, each of at most `WIDTH` characters."""
    labels, rows = list(runs), results(list(runs.values()))
    configured = {label: run.settings for label, run in runs.items() if run.settings}
    chosen = {section: dict.fromkeys(run[key] for run in configured.values() if key in run) for section, key in CHOICES}
    different = {section: list(map(str, names)) for section, names in chosen.items() if len(names) > 1}
    if len(different.get("model", ())) > 2:
        return [*table(labels, rows), _apart({"model": different["model"]})]
    notes = [_apart(different)] if different else []
    notes += [f"{label} has no config.json to compare" for label in labels if label not in configured]
    # The other models of an objective follow from it.
    omitted = {*different, "models"} if different else set()
    by_run = {
        label: {key: value for key, value in settings.items() if key.partition(".")[0] not in omitted}
        for label, settings in configured.items()
    }
    notes += partial(by_run)
    differing = differences(by_run)
    # Besides the rows: the labels, the title of the settings, "... and more" and the caller's line.
    shown = fitting(differing, LINES - len(rows) - len(notes) - 4)
    if shown:
        column = {label: index for index, label in enumerate(configured)}
        aligned = [
            (key, [cells[column[label]] if label in column else "-" for label in labels]) for key, cells in shown
        ]
        rows += [("settings that differ", [""] * len(runs)), *aligned]
    elif not notes:
        notes = ["settings: no difference"]
    if len(differing) > len(shown):
        notes = [_more(len(differing) - len(shown)), *notes]
    return [*table(labels, rows), *map(_cut, notes)]


def final(entries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the latest value of every metric, and the best validation loss with its step."""
    values: dict[str, float] = {}
    for entry in entries:
        values |= entry
    validated = [(entry["val/loss"], entry["step"]) for entry in entries if "val/loss" in entry]
    if validated:
        values["val/loss best"], values["val/loss best at"] = min(validated)
    return values


def results(runs: Sequence[Run]) -> list[Row]:
    """Returns the rows of the results that some run has, and of the validation metrics that all runs have."""
    finals = [final(run.entries) for run in runs]
    common = [name for name in finals[0] if name.startswith("val/") and all(name in values for values in finals)]
    common = [name for name in common if name.removeprefix("val/") not in SEPARATE]
    best = ["val/loss best", "val/loss best at"]
    steps = [values.get("step", 0) for values in finals]
    if all(values.get(best[1], step) == step for values, step in zip(finals, steps, strict=True)):
        best = []  # The last loss of every run is its best.
    names = ["train/tokens", "train/loss", "val/loss", *best, *common[:MOST_METRICS], "val/bits_per_byte"]
    paces = [_pace(run.entries) for run in runs]
    rows = [
        ("steps", [_steps(step, run.settings) for step, run in zip(steps, runs, strict=True)]),
        ("parameters", [run.parameters or "-" for run in runs]),
        *((name, [number(name, values.get(name)) for values in finals]) for name in names),
        ("tokens per second", [f"{rate:,.0f}" if rate else "-" for rate, _ in paces]),
        ("time in training steps", [_duration(seconds) if seconds else "-" for _, seconds in paces]),
    ]
    return [(name, cells) for name, cells in rows if set(cells) != {"-"}]


def read_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a configuration by key, without those of alternatives that were not chosen."""
    settings = dict(_leaves(config))
    tokenizer = "data.tokenizer."
    unread = TRAINED if settings.get(f"{tokenizer}path") else ()
    unread = unread or (("vocab_at_most",) if settings.get(f"{tokenizer}vocab") else ())
    return {key: value for key, value in settings.items() if key not in (*IDLE, *(tokenizer + name for name in unread))}


def differences(by_run: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Returns a row for every setting that all runs have and that differs, in the order of the sections."""
    first, *others = by_run.values() or [{}]
    shared = [key for key in first if all(key in other for other in others)]
    differing = [key for key in shared if any(first[key] != other[key] for other in others)]
    # A stable sort: settings keep their order within a section.
    return [(key, _values([settings[key] for settings in by_run.values()])) for key in sorted(differing, key=_place)]


def partial(by_run: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns a line for each section with settings that only some runs have: how many, whose, and of which trees."""
    known = {label: {tree for key in settings for tree in _prefixes(key)} for label, settings in by_run.items()}
    counts: dict[str, dict[str, Counter[str]]] = {}  # By section, by the runs that have it, by tree.
    for key in dict.fromkeys(key for settings in by_run.values() for key in settings):
        owners = [label for label, settings in by_run.items() if key in settings]
        if len(owners) == len(by_run) or all(by_run[label][key] is None for label in owners):
            continue
        others = [known[label] for label in by_run if label not in owners]
        section, *below = _prefixes(key)
        # The largest tree that the others do not have; the tree around a single setting.
        lacking = [tree for tree in below if not any(tree in other for other in others)]
        tree = lacking[0] if lacking and lacking[0] != key else key.rpartition(".")[0] or section
        names = ", ".join(_tail(label, OWNER_WIDTH) for label in owners)
        counts.setdefault(section, {}).setdefault(names, Counter())[tree.removeprefix(f"{section}.")] += 1
    lines = []
    for section in sorted(counts, key=_place):
        owned = [f"{_settings(trees)} of {names} only ({', '.join(trees)})" for names, trees in counts[section].items()]
        lines.append(f"{section}: {', '.join(owned)}")
    return lines if len(lines) <= MOST_PARTIAL else [*lines[: MOST_PARTIAL - 1], _more(len(lines) - MOST_PARTIAL + 1)]


def fitting(rows: Sequence[Row], most: int) -> list[Row]:
    """Returns at most `most` of the rows, as many of every section as possible, in their order."""
    seen: Counter[str] = Counter()
    ranks = []
    for key, _ in rows:
        section = key.partition(".")[0]
        ranks.append(seen[section])
        seen[section] += 1
    chosen = sorted(range(len(rows)), key=lambda index: ranks[index])[: max(most, 0)]
    return [rows[index] for index in sorted(chosen)]


def table(labels: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Formats rows under the labels of their runs, in blocks of a screen's width."""
    key_width = min(max(len(name) for name, _ in rows), KEY_WIDTH)
    lines: list[str] = []
    for start in range(0, len(labels), RUNS_PER_BLOCK):
        block = slice(start, start + RUNS_PER_BLOCK)
        room = (WIDTH - key_width) // len(labels[block]) - 2
        cut = [("", [_tail(label, room) for label in labels[block]])]
        cut += [(_key(name, key_width), _shortened(cells, room)[block]) for name, cells in rows]
        widths = [max(map(len, column), default=0) + 2 for column in zip(*(cells for _, cells in cut), strict=True)]
        for name, cells in cut:
            line = name.ljust(key_width) + "".join(map(str.rjust, cells, widths))
            lines.append(line.rstrip())
    return lines


def number(name: str, value: float | None) -> str:
    """Formats the value of a metric; `-` if there is none."""
    if value is None:
        return "-"
    is_count = name in ("step", "train/tokens", "val/loss best at")
    return f"{value:,.0f}" if is_count or abs(value) >= 1e4 else f"{value:.4g}" if abs(value) < 1e-2 else f"{value:.4f}"


def _apart(different: Mapping[str, Sequence[str]]) -> str:
    line = ""
    for between in (" against ", ", "):
        sections = [f"{section}: {between.join(names)}" for section, names in different.items()]
        line = "; ".join([*sections, "their settings are not compared"])
        if len(line) <= WIDTH:
            break
    return _cut(line)


def _more(count: int) -> str:
    return f"... and {count} more; --json prints all"


def _settings(counts: Counter[str]) -> str:
    return f"{counts.total()} setting{'s' * (counts.total() > 1)}"


def _steps(step: float, settings: Mapping[str, Any]) -> str:
    total = settings.get("train.steps", step)
    return f"{step:,.0f}" if step >= total else f"{step:,.0f} of {total:,}"


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def _pace(entries: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    """Returns tokens per second and the seconds of all steps, without compilation, evaluations and checkpoints."""
    tokens = seconds = before = 0.0
    for entry in entries:
        if rate := entry.get("train/tokens_per_second"):
            tokens += entry["train/tokens"] - before
            seconds += (entry["train/tokens"] - before) / rate
        before = entry.get("train/tokens", before)
    return (tokens / seconds if seconds else 0.0), seconds


def _leaves(tree: Mapping[str, Any], key: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the settings below `key`, except those of alternatives that the settings beside them do not choose."""
    chosen = [tree.get(name) for name in ("name", "position")]
    chosen = [name for name in chosen if isinstance(name, str) and name in ALTERNATIVES]
    for name, value in tree.items():
        if not isinstance(value, Mapping):
            yield key + name, value
        elif not chosen or name in chosen or name not in ALTERNATIVES:
            yield from _leaves(value, f"{key}{name}.")


def _prefixes(key: str) -> list[str]:
    """Returns the trees that contain a key, from its section on, and the key."""
    parts = key.split(".")
    return [".".join(parts[: depth + 1]) for depth in range(len(parts))]


def _place(key: str) -> int:
    """Returns the position of a key's section on the screen; the sections that influence no result come last."""
    section = key.partition(".")[0]
    return SECTIONS.index(section) if section in SECTIONS else len(SECTIONS)


def _values(values: Sequence[Any]) -> list[str]:
    """Formats the values of a setting; numbers that would look equal keep all digits."""
    short = [f"{value:.6g}" if isinstance(value, float) else str(value) for value in values]
    short = [text or "''" for text in short]
    return short if len(set(short)) == len(set(map(repr, values))) else list(map(repr, values))


def _shortened(cells: Sequence[str], room: int) -> list[str]:
    """Cuts cells to `room` characters: without their common beginning, then without their middle."""
    if max(map(len, cells)) <= room:
        return list(cells)
    common = len(os.path.commonprefix(list(cells))) if len(set(cells)) > 1 else 0
    texts = [f"...{cell[common - 3 :]}" if common > 6 else cell for cell in cells]
    half = (room - 3) // 2
    return [text if len(text) <= room else f"{text[: room - 3 - half]}...{text[-half:]}" for text in texts]


def _tail(text: str, room: int) -> str:
    return text if len(text) <= room else f"...{text[3 - room :]}"


def _key(key: str, room: int) -> str:
    """Cuts a key in its middle, so that its section and its own name remain."""
    if len(key) <= room:
        return key
    section = key.partition(".")[0]
    return section + _tail(key.removeprefix(section), room - len(section))


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..."
