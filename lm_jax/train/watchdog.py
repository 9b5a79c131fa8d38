"""Gives up a run that hangs: who waits for a host that is gone waits for ever, and pays for every hour of it."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

# What a supervisor starts again: the newest checkpoint is intact, and the same command resumes from it.
HUNG = 4


class Watchdog:
    """Within it, a run that makes no step for `timeout_s` seconds ends with code 4 and the stacks of its threads.

    Attributes:
      timeout_s: how long a step, with the checkpoint after it, may take; 0 is for ever.
      give_up: takes the exit code, and does not come back.
    """

    def __init__(self, timeout_s: float, give_up: Callable[[int], Any] = os._exit):
        self.timeout_s, self.give_up = timeout_s, give_up
        self._step, self._seen, self._resting = 0, time.monotonic(), 0
        self._over = threading.Event()

    def __enter__(self) -> Watchdog:
        if self.timeout_s > 0:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._over.set()

    def beat(self, step: int) -> None:
        """Says that `step` was made."""
        self._step, self._seen = step, time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Within it, time does not count: evaluations take as long as they take."""
        self._resting += 1
        try:
            yield
        finally:
            self._resting -= 1
            self._seen = time.monotonic()

    def _watch(self) -> None:
        while not self._over.wait(min(self.timeout_s / 4, 10.0)):
            if self._resting or time.monotonic() - self._seen < self.timeout_s:
                continue
            faulthandler.dump_traceback(all_threads=True)
            print(
                f"lm-jax train: no step for {self.timeout_s:g} s after step {self._step} (config.train.timeout_s); its "
                "threads stood as above; the same command resumes from the last checkpoint",
                file=sys.stderr,
                flush=True,
            )
            self.give_up(HUNG)
            return
