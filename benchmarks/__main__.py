"""Times workers in turns and prints ratios: `python -m benchmarks WORK [--also NAME=COMMAND ...]`.

A single time on a noisy machine means little: all workers start as waiting processes, each round gives every worker one
turn, and the median over the rounds of the ratio of their times is printed.

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

# For each workload, the module of its worker and the module's arguments.
WORKS = {
    "w1": ("w1",),
    "w2": ("w2",),
    "w3": ("w3",),
    "w4b1": ("w4", "rows=1"),
    "w4b16": ("w4", "rows=16"),
    "w5": ("w5",),
    "encode": ("encode",),
    "predict": ("predict",),
    "tune_classify": ("tuning", "task=classify", "generator=hashed"),
    "tune_tag": ("tuning", "task=tag", "generator=hashed"),
}
# Settings of lm_jax's worker that the other workers of a workload read too; the rest applies to its models only.
SHARED = {"encode": "checkpoint", "predict": "folder"}


class Worker:
    """A worker process."""

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
        """Run `units` units of work and return the seconds per unit."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"GO {units}\n")
        self.process.stdin.flush()
        self.last = self._read("DONE ")
        return self.last["s"] / units

    def close(self) -> None:
        """End the process."""
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
    """Time the workers of one workload and print a JSON line for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("--also", action="append", default=[], metavar="NAME=COMMAND", help="a worker to compare with")
    parser.add_argument("--transformers", metavar="PYTHON", help="a Python with torch and transformers to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn")
    parser.add_argument("words", nargs="*", help="key=value settings for lm_jax's worker")
    args = parser.parse_intermixed_args()
    module, *words = WORKS[args.work]
    ours = f"{sys.executable} -m benchmarks.{module} {' '.join([*words, *args.words])}"
    others = [worker.split("=", 1) for worker in args.also]
    if args.transformers:
        shared = [word for word in args.words if word.split("=")[0] == SHARED.get(args.work)]
        others.append(["transformers", f"{args.transformers} -m benchmarks.peers {' '.join([args.work, *shared])}"])
    workers = [Worker(name, command) for name, command in [["lm_jax", ours], *others]]
    # All turns take about as long: `units` depends on the cost of a unit.
    units = {worker.name: max(1, int(args.seconds / worker.go(1))) for worker in workers}
    for _ in range(args.rounds):
        for worker in workers:
            worker.seconds.append(worker.go(units[worker.name]))
    first = workers[0]
    for worker in workers:
        ratios = [ours / theirs for ours, theirs in zip(first.seconds, worker.seconds, strict=True)]
        report = {
            "work": args.work,
            "worker": worker.name,
            "ms_median": round(1e3 * statistics.median(worker.seconds), 2),
            "lm_jax_time_over_its": round(statistics.median(ratios), 3),
            "rss_mb": worker.last.get("rss"),
            "out": worker.last.get("out"),
            "rounds": args.rounds,
            "load": round(os.getloadavg()[0], 2),
            **{key: worker.info[key] for key in ("jax", "compile_s", "temp_mb") if key in worker.info},
        }
        print(json.dumps(report), flush=True)
    for worker in workers:
        worker.close()


if __name__ == "__main__":
    main()
