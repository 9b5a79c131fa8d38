"""Where metrics go: a file, TensorBoard, Weights & Biases, Aim; `config.log.writers` names them.

A tracker is a service for the reader: one that fails, at its start or in the middle of a run, is told of once and left
out, and training goes on. A run that is resumed goes on in the same run of the tracker; `trackers.json` in the
work directory keeps the names that they know it by.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lm_jax.core.config import InputError, lookup
from lm_jax.data import atomic
from lm_jax.train import metrics

log = logging.getLogger(__name__)

NAMES = "trackers.json"


class Writer(Protocol):
    """Where metrics go."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of one step."""

    def close(self) -> None:
        """Leaves nothing unwritten."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What a writer may know of its run.

    Attributes:
      workdir: the run's directory, which exists.
      start: finished steps: 0, or the restored step.
      config: the configuration, as JSON writes it.
    """

    workdir: Path
    start: int = 0
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def name(self, tracker: str) -> str | None:
        """What the tracker called this run before, if it knew it."""
        return self._names().get(tracker)

    def remember(self, tracker: str, name: str) -> None:
        """Keeps what the tracker calls this run."""
        atomic.write_json(self.workdir / NAMES, {**self._names(), tracker: name})

    def _names(self) -> dict[str, str]:
        path = self.workdir / NAMES
        return json.loads(path.read_text()) if path.exists() else {}


def lines(run: Run) -> Writer:
    """`metrics.jsonl`, cut back to where the run goes on."""
    metrics.cut(run.workdir / metrics.FILE, run.start)
    return metrics.Lines(run.workdir / metrics.FILE)


class TensorBoard:
    """Writes TensorBoard events; those after `start` that an earlier process wrote are hidden."""

    def __init__(self, run: Run):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(run.workdir / "tensorboard"), purge_step=run.start + 1 if run.start else None)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """One scalar a metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes the events."""
        self._writer.close()


class WeightsAndBiases:
    """A run of wandb.ai, whose own variables (WANDB_PROJECT, WANDB_MODE=offline, ...) hold.

    Its own step only ever grows, and a resumed run goes back: here `step` is a metric, and the axis of all others.
    Steps that are computed again after a resume have the same values again.
    """

    def __init__(self, run: Run):
        import wandb  # pyright: ignore[reportMissingImports]

        name = run.name("wandb") or uuid.uuid4().hex[:8]
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "lm_jax"),
            name=os.environ.get("WANDB_NAME", run.workdir.resolve().name),
            id=name,
            resume="allow",
            dir=str(run.workdir),
            # Console capture would take standard output away from the progress bar.
            settings=wandb.Settings(console="off"),
        )
        run.remember("wandb", name)
        self._run.config.update(dict(run.config), allow_val_change=True)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row; sent by a process of wandb's own."""
        self._run.log({"step": step, **metrics})

    def close(self) -> None:
        """Sends what is left."""
        self._run.finish()


class Aim:
    """A run of an Aim repository: `.aim` beside the work directory, unless AIM_REPO names another; `aim up` shows it.

    `train/loss` is tracked as `loss` in the context `{"subset": "train"}`: so Aim lays curves over each other.
    """

    def __init__(self, run: Run):
        import aim  # pyright: ignore[reportMissingImports]

        repo = os.environ.get("AIM_REPO") or str(run.workdir.resolve().parent)
        known = run.name("aim")
        self._run: Any = aim.Run(
            known,
            repo=repo,
            experiment="lm_jax",
            # A killed process leaves its lock behind.
            force_resume=known is not None,
            system_tracking_interval=None,
            capture_terminal_logs=False,
        )
        run.remember("aim", self._run.hash)
        self._run.name = run.workdir.resolve().name
        self._run["config"] = dict(run.config)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """One value a metric."""
        for name, value in metrics.items():
            subset, _, short = name.rpartition("/")
            self._run.track(value, name=short, step=step, context={"subset": subset} if subset else {})

    def close(self) -> None:
        """Marks the run as ended."""
        self._run.close()


# Name: writer of a run, and the library that it needs beyond the core ones.
WRITERS: dict[str, tuple[Callable[[Run], Writer], str]] = {
    "jsonl": (lines, ""),
    "tensorboard": (TensorBoard, ""),
    "wandb": (WeightsAndBiases, "wandb"),
    "aim": (Aim, "aim"),
}


def check(names: Sequence[str]) -> None:
    """Finds what `build` would refuse, without opening anything.

    Raises:
      InputError: a writer that does not exist, or whose library is missing.
    """
    for name in names:
        _, library = lookup(WRITERS, name, "config.log.writers")
        if library and importlib.util.find_spec(library) is None:
            raise InputError(
                f"config.log.writers names {name!r}, whose library is not installed: pip install 'lm_jax[{library}]'"
            )


def build_writers(names: Sequence[str], run: Run) -> list[Writer]:
    """The named writers of a run; all but `metrics.jsonl`, which the run itself needs, may die without harm."""
    check(names)
    return [
        WRITERS[name][0](run) if name == "jsonl" else Expendable(name, lambda name=name: WRITERS[name][0](run))
        for name in names
    ]


class Expendable:
    """A writer that may fail: it is told of in one line and left out from then on."""

    def __init__(self, name: str, make: Callable[[], Writer]):
        self._name = name
        self._writer: Writer | None = None
        self._writer = self._attempt(make)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Passes the metrics on, while the writer lives."""
        if self._writer is not None:
            writer = self._writer
            self._attempt(lambda: writer.write(step, metrics))

    def close(self) -> None:
        """Closes the writer, if it still lives."""
        if self._writer is not None:
            self._attempt(self._writer.close)

    def _attempt(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # Whatever a tracker dies of, the run goes on.
            self._writer = None
            reason = " ".join(str(error).split())[:200]
            log.warning("%s failed (%s: %s); the run goes on without it", self._name, type(error).__name__, reason)
            return None
