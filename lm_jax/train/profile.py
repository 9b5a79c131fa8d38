"""Profiler traces of chosen steps, or on demand: `touch WORKDIR/profile.now` traces the next steps of a run.

A file needs no process id and works from another host or container. The signal SIGUSR1, which job schedulers send
before a preemption, would end a run that has not installed its handler yet.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

log = logging.getLogger(__name__)

REQUEST = "profile.now"  # Creating this file requests a trace; a number in it is the number of steps.
STEPS = 5  # The number of steps if the file has none.


class Profiler:
    """Traces steps of a run into `WORKDIR/profile`.

    Args:
      workdir: of the run.
      start: number of finished steps.
      steps: first and last step to trace; empty: on demand only.
      say: called with a message about each finished trace.
      active: whether this process traces; True on one process only.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        start: int = 0,
        steps: tuple[int, ...] = (),
        say: Callable[[str], None] = print,
        active: bool = True,
    ):
        self._workdir, self._step, self._say, self._active = workdir, start, say, active
        self._first, self._last = steps if steps else (0, 0)
        self._tracing = False

    def wrap(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps a train step so that the chosen steps are traced."""

        def profiled(state: Any, batch: Any) -> Any:
            self._step += 1
            if self._tracing and self._step > self._last:
                # The last traced step may still be running.
                jax.block_until_ready(state)
                self.close()
            elif not self._tracing and self._first <= self._step <= self._last:
                jax.block_until_ready(state)
                self._open()
            if not self._tracing:
                return step(state, batch)
            with jax.profiler.StepTraceAnnotation("train", step_num=self._step):
                return step(state, batch)

        return profiled if self._active else step

    def poll(self) -> None:
        """Reads a request, if there is one; costs a file system access, so call it only when metrics are logged."""
        request = self._workdir / REQUEST
        if not self._active or self._tracing or not request.exists():
            return
        try:
            words = request.read_text().split()
            request.unlink()
        except OSError as error:
            log.warning("%s cannot be read and deleted (%s); nothing is traced", request, error)
            return
        count = int(words[0]) if words and words[0].isdigit() and int(words[0]) else STEPS
        self._first, self._last = self._step + 1, self._step + count

    def _open(self) -> None:
        try:
            jax.profiler.start_trace(self.directory)
            self._tracing, self._first = True, self._step
        except Exception as error:  # A failed trace must not end the run.
            log.warning("the profiler did not start (%s); the run continues without a trace", error)
            self._first, self._last = 0, 0

    def close(self) -> None:
        """Ends the current trace, if there is one, and reports its directory."""
        if not self._tracing:
            return
        self._tracing = False
        jax.profiler.stop_trace()
        self._say(
            f"profile of steps {self._first} to {min(self._step, self._last)} in {self.directory}; view it with "
            f"tensorboard --logdir={self.directory}, or open its newest trace.json.gz in ui.perfetto.dev"
        )
        self._first, self._last = 0, 0

    @property
    def directory(self) -> Path:
        """The directory of the traces."""
        return self._workdir / "profile"
