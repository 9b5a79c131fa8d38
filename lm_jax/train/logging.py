"""Metrics of a run, passed to the configured writers and to the console."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_jax.train import writers
from lm_jax.train.console import Console

Metrics = Mapping[str, Any]  # name, such as `train/loss` -> a value that `float()` accepts


class Logger:
    """Passes metrics to every writer of a run; a context manager that closes them."""

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
        """Opens the writers; raises InputError as `writers.check` does.

        Args:
          workdir: the directory of the writers' files.
          total: steps of the whole run.
          start: finished steps: 0, or the restored step, to which `metrics.jsonl` is truncated.
          every: steps between two lines of training metrics, if the console is not a terminal.
          names: the writers (`writers.WRITERS`).
          config: the configuration of the run, for trackers that show it.
          active: whether this process writes; True on one process only.
          stream: the console; by default standard output.
        """
        output: Any = sys.stdout if stream is None else stream
        self.console: Console | None = None
        self._writers: list[writers.Writer] = []
        if active:
            Path(workdir).mkdir(parents=True, exist_ok=True)
            run = writers.Run(workdir=Path(workdir), start=start, config=config or {})
            self._writers += writers.build_writers(names, run)
            self.console = Console(total=total, start=start, every=every, stream=output)
            self._writers.append(self.console)

    def write(self, step: int, metrics: Metrics) -> None:
        """Writes the metrics of one step; waits for the device if it still computes them."""
        if self._writers:
            numbers = {name: value if isinstance(value, int) else float(value) for name, value in metrics.items()}
            for writer in self._writers:
                writer.write(step, numbers)

    def say(self, text: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        if self.console:
            self.console.say(text)

    def tick(self, step: int) -> None:
        """Moves the progress bar; cheap enough to call at every step."""
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
