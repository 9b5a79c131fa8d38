"""The worker's side of the protocol of `python -m benchmarks`; standard library only, for workers without lm_jax."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any


def serve(go: Callable[[int], Any], **info: Any) -> None:
    """Answer `GO n` until `EXIT`; `go(n)` does n units of work and returns a value to print."""
    print("READY " + json.dumps(info), flush=True)
    for line in sys.stdin:
        words = line.split()
        if not words or words[0] == "EXIT":
            return
        cpu, start = time.process_time(), time.perf_counter()
        out = go(int(words[1]))
        done = {"s": time.perf_counter() - start, "cpu": time.process_time() - cpu, "n": int(words[1]), "out": out}
        done["rss"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        print("DONE " + json.dumps(done), flush=True)
