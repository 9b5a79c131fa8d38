"""Files that are whole or absent: written under a temporary name, flushed to disk, renamed."""

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
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends well."""
    # The process id alone is not enough: threads and machines that share the directory have the same ones.
    partial = path.with_name(f"{path.name}{TEMPORARY}{uuid.uuid4().hex}")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        # The system names a file that it cannot open, but not one that it cannot write on.
        error.filename = error.filename or str(path)
        raise
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


def check_directory(path: Path, flag: str) -> None:
    """Refuses a directory that could not be made or written, before there is anything to write.

    Args:
      path: the directory, which need not exist.
      flag: what named it, for the message.

    Raises:
      InputError: it, or what would hold it, is a file or may not be written.
    """
    path = Path(path)
    there = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        raise InputError(f"{flag} {path}: {there} is a file; give a directory")
    try:
        if there != path:
            # Not every file system that may be written lets directories be made.
            os.rmdir(tempfile.mkdtemp(dir=there))
        elif not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise InputError(
            f"{flag} {path}: {there} cannot be written ({(error.strerror or str(error)).lower()}); give another place"
        ) from error


def check_file(path: Path, flag: str) -> None:
    """Refuses a file that could not be written, before there is anything to write.

    Args:
      path: the file, which need not exist.
      flag: what named it, for the message.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{flag} {path} is a directory; give the name of a file")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{flag} {path}: there is no directory {path.absolute().parent}; make it first")
    check_directory(path.absolute().parent, flag)


@contextlib.contextmanager
def unfinished(directory: Path, last: str, waiting: Callable[[], None]) -> Iterator[bool]:
    """Whether a directory still lacks its `last` file, for one process at a time; what killed writers left is deleted.

    Args:
      directory: made where it is not there; its lock dies with its holder, however that ends.
      last: the name of the file that is written last.
      waiting: called once when another process holds the lock.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            # Some network file systems have no locks. Writers then repeat each other's work; the renames keep it whole.
            pass
        missing = not (directory / last).exists()
        for path in directory.rglob(f"*{TEMPORARY}*") if missing else ():
            path.unlink(missing_ok=True)
        yield missing
