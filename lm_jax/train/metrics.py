"""The metrics file of a run: `metrics.jsonl`, one object per line, `{"step": 100, "train/loss": 3.25, ...}`.

Non-finite numbers are the strings "nan", "inf" and "-inf", so that every line is strict JSON and `float()` reads every
value. A step may have several lines, such as one for training and one for validation.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lm_jax.core.config import InputError
from lm_jax.data import atomic

log = logging.getLogger(__name__)

FILE = "metrics.jsonl"


class JsonLines:
    """Appends to a JSON lines file and flushes every line."""

    def __init__(self, path: str | os.PathLike):
        self._file = open(path, "a", encoding="utf-8")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes one line."""
        values = {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read(workdir: str | os.PathLike) -> list[dict[str, float]]:
    """Reads a run's `metrics.jsonl`, without an incomplete last line; raises InputError if there is no file."""
    path = Path(workdir) / FILE
    if not path.exists():
        raise InputError(f"no {FILE} in {workdir}; name the workdir of a run")
    return [{name: float(value) for name, value in entry.items()} for _, entry in _entries(path)]


def truncate(path: str | os.PathLike, step: int) -> int:
    """Drops the lines after `step` and an incomplete last one, atomically; returns the number of dropped lines."""
    path = Path(path)
    if not path.exists():
        return 0
    lines = [line for line, entry in _entries(path) if entry["step"] <= step]
    with open(path, "rb") as file:
        before = sum(1 for _ in file)
    atomic.write_bytes(path, b"".join(lines))
    return before - len(lines)


def _entries(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                entry = json.loads(line)
                complete = line.endswith(b"\n") and isinstance(entry["step"], int)
            except (ValueError, KeyError, TypeError):
                complete = False
            if complete:
                yield line, entry
            elif line.endswith(b"\n"):  # A kill can truncate the last line only.
                log.warning("%s: line %d is damaged and is ignored", path, number)
