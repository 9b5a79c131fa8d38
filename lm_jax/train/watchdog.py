"""Ends a run that hangs, for instance while it waits for a lost host, rather than let its devices idle."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

# Exit code after which a supervisor may restart the same command, which resumes from the newest checkpoint.
HUNG = 4


class Watchdog:
    """A context in which a run without a step for `timeout_s` seconds prints its threads' stacks and exits with code 4.

    Attributes:
      timeout_s: longest time of a step with its checkpoint; 0: no limit.
      give_up: called with the exit code; does not return.
    """

    def __init__(self, timeout_s: float, give_up: Callable[[int], Any] = os._exit):
        self.timeout_s, self.give_up = timeout_s, give_up
        self._step, self._last_beat, self._pauses = 0, time.monotonic(), 0
        self._stopped = threading.Event()

    def __enter__(self) -> Watchdog:
        if self.timeout_s > 0:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stopped.set()

    def beat(self, step: int) -> None:
        """Reports that `step` is finished."""
        self._step, self._last_beat = step, time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context, for evaluations, in which the time limit does not apply."""
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1
            self._last_beat = time.monotonic()

    def _watch(self) -> None:
        while not self._stopped.wait(min(self.timeout_s / 4, 10.0)):
            if self._pauses or time.monotonic() - self._last_beat < self.timeout_s:
                continue
            faulthandler.dump_traceback(all_threads=True)
            print(
                f"lm-jax train: no step for {self.timeout_s:g} s after step {self._step} (config.train.timeout_s); its "
                "threads' stacks are above; the same command resumes from the last checkpoint",
                file=sys.stderr,
                flush=True,
            )
            self.give_up(HUNG)
            return
