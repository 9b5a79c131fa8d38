"""The file of a run's metrics: `metrics.jsonl`, one object a line, `{"step": 100, "train/loss": 3.25, ...}`.

Numbers are JSON numbers; what JSON has no number for is one of the strings "nan", "inf" and "-inf", so that every line
is strict JSON and `float()` reads every value. Several lines may tell of one step, such as training and validation.
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


class Lines:
    """Appends to a JSON lines file; every line is on its way to the disk when `write` returns."""

    def __init__(self, path: str | os.PathLike):
        self._file = open(path, "a", encoding="utf-8")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line."""
        values = {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read(workdir: str | os.PathLike) -> list[dict[str, float]]:
    """The lines of a run's `metrics.jsonl`; a half-written last one is left out.

    Raises:
      InputError: there is no such file.
    """
    path = Path(workdir) / FILE
    if not path.exists():
        raise InputError(f"no {FILE} in {workdir}; name the workdir of a run")
    return [{name: float(value) for name, value in entry.items()} for _, entry in _entries(path)]


def cut(path: str | os.PathLike, step: int) -> int:
    """Drops the lines after `step`, and a half-written last one; the file is replaced whole or not at all.

    Returns:
      How many lines were dropped.
    """
    path = Path(path)
    if not path.exists():
        return 0
    kept = [line for line, entry in _entries(path) if entry["step"] <= step]
    with open(path, "rb") as file:
        before = sum(1 for _ in file)
    atomic.write_bytes(path, b"".join(kept))
    return before - len(kept)


def _entries(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Every whole line with its object."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                entry = json.loads(line)
                whole = line.endswith(b"\n") and isinstance(entry["step"], int)
            except (ValueError, KeyError, TypeError):
                whole = False
            if whole:
                yield line, entry
            elif line.endswith(b"\n"):  # Only the last line may be cut short by a kill.
                log.warning("%s: line %d is damaged and is left out", path, number)
