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
    # Not the process id: threads share it, and machines that share the directory may have equal ones.
    partial = path.with_name(f"{path.name}{TEMPORARY}{uuid.uuid4().hex}")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        # The error of the system names a file that cannot be opened, but not one that cannot be written (a full disk).
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

    Raises:
      InputError: the directory, or its nearest existing parent, is a file or is not writable; the message names `flag`.
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
    """Check that a file can be written, like `check_directory`."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{flag} {path} is a directory; give the name of a file")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{flag} {path}: there is no directory {path.absolute().parent}; create it first")
    check_directory(path.absolute().parent, flag)


@contextlib.contextmanager
def lock_unfinished(directory: Path, last: str, waiting: Callable[[], None]) -> Iterator[bool]:
    """Lock a directory, created if absent, and yield whether `last`, the file that is written last, is missing.

    If it is missing, delete the temporary files of killed writers. The system releases the lock when the process ends
    in any way. `waiting` is called once if another process holds the lock.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # Some network file systems have no locks: writers repeat each other's work, but renaming is atomic.
        missing = not (directory / last).exists()
        for path in directory.rglob(f"*{TEMPORARY}*") if missing else ():
            path.unlink(missing_ok=True)
        yield missing
