"""What a run tells: its metrics, handed to every writer that the configuration names and to the console."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_jax.train import writers
from lm_jax.train.console import Console

Metrics = Mapping[str, Any]  # names such as `train/loss` to anything that `float()` takes


class Logger:
    """Hands metrics to every writer of a run; a context manager.

    On a run that is resumed, `metrics.jsonl` is first cut back to the step that the run goes on from.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        total: int,
        start: int = 0,
        every: int = 1,
        names: Sequence[str] = ("jsonl", "tensorboard"),
        config: Mapping[str, Any] | None = None,
        active: bool = True,
        stream: io.TextIOBase | None = None,
    ):
        """Opens the writers.

        Args:
          workdir: where the writers keep their files.
          total: the steps of the whole run.
          start: finished steps: 0, or the restored step.
          every: without a terminal, the steps between two console lines of training.
          names: the writers (`writers.WRITERS`).
          config: the configuration of the run, for the trackers that show it.
          active: False on every process but one: then nothing is written.
          stream: the console, by default standard output.

        Raises:
          InputError: a writer that does not exist, or whose library is missing.
        """
        console: Any = sys.stdout if stream is None else stream
        self.console: Console | None = None
        self._writers: list[writers.Writer] = []
        if active:
            Path(workdir).mkdir(parents=True, exist_ok=True)
            run = writers.Run(workdir=Path(workdir), start=start, config=config or {})
            self._writers += writers.build_writers(names, run)
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


def _number(value: Any) -> float | int:
    return value if isinstance(value, int) else float(value)
