"""Writers of metrics: a file, TensorBoard, Weights & Biases, Aim; `config.log.writers` selects them.

If a tracker fails, at its start or during a run, a warning is logged once and training continues without it. A resumed
run continues the same run of the tracker, whose id is in `trackers.json` in the work directory.
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
    """A destination of metrics."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the metrics of one step."""

    def close(self) -> None:
        """Writes everything that is buffered, and closes the writer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """The properties of a run that writers need.

    Attributes:
      workdir: the run's directory, which must exist.
      start: number of finished steps: 0, or the restored step.
      config: the configuration as a JSON tree.
    """

    workdir: Path
    start: int = 0
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def name(self, tracker: str) -> str | None:
        """Returns the tracker's id of this run, or None for a new run."""
        return self._names().get(tracker)

    def remember(self, tracker: str, name: str) -> None:
        """Saves the tracker's id of this run."""
        atomic.write_json(self.workdir / NAMES, {**self._names(), tracker: name})

    def _names(self) -> dict[str, str]:
        path = self.workdir / NAMES
        return json.loads(path.read_text()) if path.exists() else {}


def json_lines(run: Run) -> Writer:
    """Opens `metrics.jsonl`, truncated to the restored step."""
    metrics.truncate(run.workdir / metrics.FILE, run.start)
    return metrics.JsonLines(run.workdir / metrics.FILE)


class TensorBoard:
    """Writes TensorBoard events and hides an earlier process's events after `start`."""

    def __init__(self, run: Run):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(run.workdir / "tensorboard"), purge_step=run.start + 1 if run.start else None)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes one scalar per metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes the events."""
        self._writer.close()


class WeightsAndBiases:
    """A run of wandb.ai; environment variables such as WANDB_PROJECT and WANDB_MODE=offline apply.

    wandb's own step cannot decrease, but a resumed run goes back, so `step` is a metric and the x-axis of the others.
    Steps that a resumed run repeats log the same values again.
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
            # Console capture would redirect the standard output of the progress bar.
            settings=wandb.Settings(console="off"),
        )
        run.remember("wandb", name)
        self._run.config.update(dict(run.config), allow_val_change=True)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs one row, which wandb's own process sends."""
        self._run.log({"step": step, **metrics})

    def close(self) -> None:
        """Sends the remaining rows."""
        self._run.finish()


class Aim:
    """A run of an Aim repository: `.aim` beside the work directory, unless AIM_REPO names another; `aim up` shows it.

    `train/loss` is tracked as `loss` in the context `{"subset": "train"}`, so that Aim overlays the curves.
    """

    def __init__(self, run: Run):
        import aim  # pyright: ignore[reportMissingImports]

        repo = os.environ.get("AIM_REPO") or str(run.workdir.resolve().parent)
        previous = run.name("aim")
        self._run: Any = aim.Run(
            previous,
            repo=repo,
            experiment="lm_jax",
            # Override the lock of a killed process.
            force_resume=previous is not None,
            system_tracking_interval=None,
            capture_terminal_logs=False,
        )
        run.remember("aim", self._run.hash)
        self._run.name = run.workdir.resolve().name
        self._run["config"] = dict(run.config)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tracks one value per metric."""
        for name, value in metrics.items():
            subset, _, short = name.rpartition("/")
            self._run.track(value, name=short, step=step, context={"subset": subset} if subset else {})

    def close(self) -> None:
        """Marks the run as ended."""
        self._run.close()


# Name -> constructor, and the optional library that it needs.
WRITERS: dict[str, tuple[Callable[[Run], Writer], str]] = {
    "jsonl": (json_lines, ""),
    "tensorboard": (TensorBoard, ""),
    "wandb": (WeightsAndBiases, "wandb"),
    "aim": (Aim, "aim"),
}


def check(names: Sequence[str]) -> None:
    """Raises InputError for an unknown writer or one whose library is not installed; opens none."""
    for name in names:
        _, library = lookup(WRITERS, name, "config.log.writers")
        if library and importlib.util.find_spec(library) is None:
            raise InputError(
                f"config.log.writers names {name!r}, whose library is not installed: pip install 'lm_jax[{library}]'"
            )


def build_writers(names: Sequence[str], run: Run) -> list[Writer]:
    """Builds the named writers; failures end the run only if they are those of `metrics.jsonl`, which it needs."""
    check(names)
    return [
        WRITERS[name][0](run) if name == "jsonl" else Expendable(name, lambda name=name: WRITERS[name][0](run))
        for name in names
    ]


class Expendable:
    """A writer whose first failure is logged as one warning, after which it is ignored."""

    def __init__(self, name: str, make: Callable[[], Writer]):
        self._name = name
        self._writer: Writer | None = None
        self._writer = self._attempt(make)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the metrics, unless the writer has failed."""
        if (writer := self._writer) is not None:
            self._attempt(lambda: writer.write(step, metrics))

    def close(self) -> None:
        """Closes the writer, unless it has failed."""
        if self._writer is not None:
            self._attempt(self._writer.close)

    def _attempt(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # No failure of a tracker may end the run.
            self._writer = None
            reason = " ".join(str(error).split())[:200]
            log.warning("%s failed (%s: %s); the run continues without it", self._name, type(error).__name__, reason)
