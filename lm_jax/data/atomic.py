"""Atomic writes: a file is written under a temporary name, flushed to disk, then renamed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lm_jax.core.config import InputError

TEMPORARY = ".partial-"


@contextlib.contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block ends without an error."""
    # Not the process id: threads share it, and so may machines that share the directory.
    partial = path.with_name(f"{path.name}{TEMPORARY}{uuid.uuid4().hex}")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        # The system names a file that it cannot open, but not one to which a write fails (a full disk).
        error.filename = error.filename or str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with replace_atomically(path) as partial:
        partial.write_bytes(data)


def write_json(path: Path, tree: Any) -> None:
    """Write JSON with sorted keys, so that equal trees are equal bytes."""
    write_bytes(path, (json.dumps(tree, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode())


def write_array(path: Path, array: np.ndarray) -> None:
    """Write one array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def check_directory(path: Path, flag: str) -> None:
    """Check that a directory can be created and written, before any work is done for it.

    Args:
      path: the directory, which need not exist.
      flag: the flag or setting that names it, for the message.

    Raises:
      InputError: the directory, or its nearest existing parent, is a file or is not writable.
    """
    path = Path(path)
    nearest = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not nearest.is_dir():
        raise InputError(f"{flag} {path}: {nearest} is a file; give a directory")
    try:
        if nearest != path:
            # Some writable file systems do not allow new directories (/proc).
            os.rmdir(tempfile.mkdtemp(dir=nearest))
        elif not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise InputError(
            f"{flag} {path}: {nearest} cannot be written ({(error.strerror or str(error)).lower()}); give another place"
        ) from error


def check_file(path: Path, flag: str) -> None:
    """Check that a file can be written, before any work is done for it; the arguments are as of `check_directory`."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{flag} {path} is a directory; give the name of a file")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{flag} {path}: there is no directory {path.absolute().parent}; create it first")
    check_directory(path.absolute().parent, flag)


@contextlib.contextmanager
def lock_unfinished(directory: Path, last: str, waiting: Callable[[], None]) -> Iterator[bool]:
    """Lock a directory and yield whether its `last` file is missing; delete the temporary files of killed writers.

    Args:
      directory: created if absent. The system releases its lock when the process that holds it ends in any way.
      last: the name of the file that is written last.
      waiting: called once if another process holds the lock.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            # Some network file systems have no locks. Writers then repeat each other's work; renaming is still atomic.
            pass
        missing = not (directory / last).exists()
        for path in directory.rglob(f"*{TEMPORARY}*") if missing else ():
            path.unlink(missing_ok=True)
        yield missing
