"""Times workers in turns and prints ratios: `python -m benchmarks WORK [--also NAME=COMMAND ...]`.

Machines are noisy, so no single time means anything: all workers run side by side as processes that wait for their
turn, every round gives each one turn, and what is printed is the median of the round-by-round ratios.

A worker is any command that prints `READY {json}`, and for each line `GO n` on its standard input does n units of work
and prints `DONE {"s": seconds, "n": n, "rss": MB}`; it ends at `EXIT`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any

# What each work runs: a worker's module and its words.
WORKS = {
    "w1": ("w1",),
    "w2": ("w2",),
    "w3": ("w3",),
    "w4b1": ("w4", "rows=1"),
    "w4b16": ("w4", "rows=16"),
    "w5": ("w5",),
    "encode": ("encode",),
}


class Worker:
    """A process that works when told to."""

    def __init__(self, name: str, command: str):
        self.name = name
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        self.info = self._read("READY ")
        self.seconds: list[float] = []
        self.last: dict[str, Any] = {}

    def go(self, units: int) -> float:
        """Seconds for one of `units` units of work."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"GO {units}\n")
        self.process.stdin.flush()
        self.last = self._read("DONE ")
        return self.last["s"] / units

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.write("EXIT\n")
        self.process.stdin.flush()
        self.process.wait(timeout=20)

    def _read(self, tag: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(tag):
                return json.loads(line[len(tag) :])
        self.errors.seek(0)
        raise RuntimeError(f"{self.name} ended early: {self.errors.read()[-800:]}")


def main() -> None:
    """Runs one work."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("--also", action="append", default=[], metavar="NAME=COMMAND", help="a worker to compare with")
    parser.add_argument(
        "--transformers", metavar="PYTHON", help="an interpreter with torch and transformers, to compare with those"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn")
    parser.add_argument("words", nargs="*", help="key=value settings for lm_jax's worker")
    given = parser.parse_intermixed_args()
    module, *words = WORKS[given.work]
    ours = f"{sys.executable} -m benchmarks.{module} {' '.join([*words, *given.words])}"
    others = [one.split("=", 1) for one in given.also]
    if given.transformers:
        # Settings are of our models; a checkpoint is everybody's.
        shared = [word for word in given.words if word.startswith("checkpoint=")]
        others.append(["transformers", f"{given.transformers} -m benchmarks.peers {' '.join([given.work, *shared])}"])
    workers = [Worker(name, command) for name, command in [["lm_jax", ours], *others]]
    # One length of turn for all, from what a unit costs each of them.
    units = {worker.name: max(1, int(given.seconds / worker.go(1))) for worker in workers}
    for _ in range(given.rounds):
        for worker in workers:
            worker.seconds.append(worker.go(units[worker.name]))
    first = workers[0]
    for worker in workers:
        ratios = [mine / its for mine, its in zip(first.seconds, worker.seconds, strict=True)]
        shown = {
            "work": given.work,
            "worker": worker.name,
            "ms_median": round(1e3 * statistics.median(worker.seconds), 2),
            "lm_jax_time_over_its": round(statistics.median(ratios), 3),
            "rss_mb": worker.last.get("rss"),
            "out": worker.last.get("out"),
            "rounds": given.rounds,
            "load": round(os.getloadavg()[0], 2),
            **{key: worker.info[key] for key in ("jax", "compile_s", "temp_mb") if key in worker.info},
        }
        print(json.dumps(shown), flush=True)
    for worker in workers:
        worker.close()


if __name__ == "__main__":
    main()
