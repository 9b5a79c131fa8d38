"""Files that are whole or absent: written under a temporary name, flushed to disk, renamed."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

TEMPORARY = ".partial-"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends well."""
    # The process id alone is not enough: threads and machines that share the directory have the same ones.
    partial = path.with_name(f"{path.name}{TEMPORARY}{uuid.uuid4().hex}")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def write_json(path: Path, tree: Any) -> None:
    """Write JSON with sorted keys, so that equal trees are equal bytes."""
    write_bytes(path, (json.dumps(tree, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode())


def write_array(path: Path, array: np.ndarray) -> None:
    """Write one array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def remove_partial(directory: Path) -> None:
    """Delete what killed writers left behind."""
    for path in directory.rglob(f"*{TEMPORARY}*"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """One process at a time; the lock dies with its holder, however that ends.

    Args:
      path: the lock file.
      waiting: called once when another process holds the lock.
    """
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            # Some network file systems have no locks. Writers then repeat each other's work; the renames keep it whole.
            pass
        yield
