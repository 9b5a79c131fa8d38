"""What a run tells: metrics to a file, to TensorBoard and to the console, and curves drawn from the file.

`metrics.jsonl` holds one object a line, `{"step": 100, "train/loss": 3.25, ...}`. Numbers are JSON numbers; what JSON
has no number for is one of the strings "nan", "inf" and "-inf", so that every line is strict JSON and `float()` reads
every value. Several lines may tell of one step, such as training and validation.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lm_jax.core.config import InputError

log = logging.getLogger(__name__)

FILE = "metrics.jsonl"
Metrics = Mapping[str, Any]  # names such as `train/loss` to anything that `float()` takes


class Writer(Protocol):
    """Where metrics go."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of one step."""

    def close(self) -> None:
        """Leaves nothing unwritten."""


class Logger:
    """Hands metrics to every writer of a run; a context manager.

    On a run that is resumed it first cuts `metrics.jsonl` back to the step that the run goes on from.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        total: int,
        start: int = 0,
        every: int = 1,
        tensorboard: bool = True,
        active: bool = True,
        stream: io.TextIOBase | None = None,
    ):
        """Opens the writers.

        Args:
          workdir: where `metrics.jsonl` and the TensorBoard events go.
          total: the steps of the whole run.
          start: finished steps: 0, or the restored step.
          every: without a terminal, the steps between two console lines of training.
          tensorboard: write events too.
          active: False on every process but one: then nothing is written.
          stream: the console, by default standard output.
        """
        console: Any = sys.stdout if stream is None else stream
        self.console: Console | None = None
        self._writers: list[Writer] = []
        if active:
            Path(workdir).mkdir(parents=True, exist_ok=True)
            cut(Path(workdir) / FILE, start)
            self._writers.append(Lines(Path(workdir) / FILE))
            if tensorboard:
                self._writers.append(TensorBoard(Path(workdir) / "tensorboard", start))
            self.console = Console(total=total, start=start, every=every, stream=console)
            self._writers.append(self.console)

    def write(self, step: int, metrics: Metrics) -> None:
        """Metrics of one step; waits for the device if they are still being computed."""
        if self._writers:
            numbers = {name: _number(value) for name, value in metrics.items()}
            for writer in self._writers:
                writer.write(step, numbers)

    def say(self, text: str) -> None:
        """A line for the reader, above the progress bar if there is one."""
        if self.console:
            self.console.say(text)

    def tick(self, step: int) -> None:
        """Moves the progress bar; cheap enough for every step."""
        if self.console:
            self.console.tick(step)

    def close(self) -> None:
        """Closes every writer."""
        for writer in self._writers:
            writer.close()

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class Lines:
    """Appends to a JSON lines file; every line is on its way to the disk when `write` returns."""

    def __init__(self, path: str | os.PathLike):
        self._file = open(path, "a", encoding="utf-8")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line."""
        values = {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoard:
    """Writes TensorBoard events; those after `start` that an earlier process wrote are hidden."""

    def __init__(self, directory: str | os.PathLike, start: int = 0):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(os.fspath(directory), purge_step=start + 1 if start else None)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """One scalar a metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes the events."""
        self._writer.close()


class Console:
    """A progress bar on a terminal, plain lines elsewhere."""

    def __init__(self, *, total: int, start: int = 0, every: int = 1, stream: io.TextIOBase):
        self._total, self._every, self._stream = total, every, stream
        self._printed: int | None = None
        self._bar: Any = None
        if stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=start, file=stream, unit="step", dynamic_ncols=True, leave=True)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """A line; training goes into the bar instead, if there is one."""
        training = all(name.startswith("train/") for name in metrics)
        if self._bar is not None and training:
            shown = {name.removeprefix("train/"): value for name, value in metrics.items()}
            self._bar.set_postfix_str("  ".join(describe(name, value) for name, value in shown.items() if name in BAR))
            self.tick(step)
            return
        recent = self._printed is not None and step - self._printed < self._every
        if training and recent and step < self._total:
            return
        if training:
            self._printed = step
        parts = [describe(name.removeprefix("train/"), value) for name, value in metrics.items()]
        self.say(f"step {step}/{self._total}  " + "  ".join(parts))

    def say(self, text: str) -> None:
        """Prints above the bar."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def tick(self, step: int) -> None:
        """Moves the bar."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


BAR = ("loss", "tokens_per_second", "mfu", "eta_s")  # what fits beside a bar
SHORT = {
    "tokens_per_second": "tokens/s",
    "tokens_per_second_per_device": "tokens/s/device",
    "learning_rate": "lr",
    "gradient_norm": "|g|",
    "mfu": "MFU",
    "eta_s": "ETA",
}


def describe(name: str, value: float) -> str:
    """A metric as a reader wants it: `tokens/s 12.3k`, `MFU 41.2%`, `ETA 1:02:03`."""
    label = SHORT.get(name, name)
    if not math.isfinite(value):
        return f"{label} {value}"
    if name.endswith("_s"):
        minutes, seconds = divmod(round(value), 60)
        return f"{label} {minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
    if name.endswith("mfu"):
        return f"{label} {value:.1%}"
    if name.endswith("learning_rate"):
        return f"{label} {value:.2e}"
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{label} {value / (1e3 if letter == 'k' else size):.1f}{letter}"
    return f"{label} {value:.0f}" if value == int(value) and abs(value) >= 1 else f"{label} {value:.4g}"


def _number(value: Any) -> float | int:
    return value if isinstance(value, int) else float(value)


def read(workdir: str | os.PathLike) -> list[dict[str, float]]:
    """The lines of a run's `metrics.jsonl`; a half-written last one is left out.

    Raises:
      InputError: there is no such file.
    """
    path = Path(workdir) / FILE
    if not path.exists():
        raise InputError(f"no {FILE} in {workdir}; name the workdir of a run")
    return [{name: float(value) for name, value in entry.items()} for _, entry in _entries(path)]


def cut(path: str | os.PathLike, step: int) -> int:
    """Drops the lines after `step`, and a half-written last one; the file is replaced whole or not at all.

    Returns:
      How many lines were dropped.
    """
    path = Path(path)
    if not path.exists():
        return 0
    kept = [line for line, entry in _entries(path) if entry["step"] <= step]
    with open(path, "rb") as file:
        before = sum(1 for _ in file)
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return before - len(kept)


def _entries(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Every whole line with its object."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                entry = json.loads(line)
                whole = line.endswith(b"\n") and isinstance(entry["step"], int)
            except (ValueError, KeyError, TypeError):
                whole = False
            if whole:
                yield line, entry
            elif line.endswith(b"\n"):  # Only the last line may be cut short by a kill.
                log.warning("%s: line %d is damaged and is left out", path, number)


def plot(workdirs: str | os.PathLike | Sequence[str | os.PathLike], path: str | os.PathLike) -> Path:
    """Draws the loss of one run or of several: training smoothed over its own faint trace, validation as points.

    Args:
      workdirs: one run or several; each is labelled by the name of its directory.
      path: the PNG file to write.

    Raises:
      InputError: a directory without metrics, or without any loss.
    """
    from matplotlib.figure import Figure

    runs = [Path(run) for run in ([workdirs] if isinstance(workdirs, (str, os.PathLike)) else workdirs)]
    names = [run.resolve().name for run in runs]
    labels = [name if names.count(name) == 1 else str(run) for name, run in zip(names, runs, strict=True)]
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    seen: list[float] = []
    for index, (run, label) in enumerate(zip(runs, labels, strict=True)):
        seen += _draw(axes, run, label if len(runs) > 1 else "", f"C{index % 10}")
    if not seen:
        raise InputError(f"no train/loss or val/loss in {', '.join(map(str, runs))}; train first")
    margin = 0.05 * (max(seen) - min(seen)) or 0.05
    axes.set(xlabel="step", ylabel="loss", ylim=(min(seen) - margin, max(seen) + margin))
    axes.set_title(labels[0] if len(runs) == 1 else "")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png")
    os.replace(temporary, path)
    return path


def _draw(axes: Any, run: Path, label: str, colour: str) -> list[float]:
    """One run's curves; returns the losses that have to be in sight."""
    entries, seen = read(run), []
    prefix = f"{label} " if label else ""
    for name, word in (("train/loss", "train"), ("val/loss", "validation")):
        points = [(entry["step"], entry[name]) for entry in entries if name in entry and math.isfinite(entry[name])]
        if not points:
            continue
        steps, losses = zip(*points, strict=True)
        if word == "train":
            smooth = smoothed(losses)
            axes.plot(steps, losses, color=colour, alpha=0.2, linewidth=0.8)
            axes.plot(steps, smooth, color=colour, linewidth=1.6, label=prefix + word)
            seen += smooth
        else:
            axes.plot(steps, losses, "o--", color=colour, markersize=4, linewidth=1, label=prefix + word)
            seen += losses
    return seen


def smoothed(values: Sequence[float], share: float = 0.02) -> list[float]:
    """An exponential mean that remembers about `share` of the values, without a bias towards the first."""
    decay = 1 - 1 / max(1.0, share * len(values))
    total = weight = 0.0
    result = []
    for value in values:
        total, weight = decay * total + value, decay * weight + 1
        result.append(total / weight)
    return result
