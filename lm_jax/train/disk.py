"""Disks that are full: found out before a checkpoint is written, and told as the system would tell it."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path

# What tensorstore calls an error of the system, within its message.
_NUMBERS = {"RESOURCE_EXHAUSTED": errno.ENOSPC, "PERMISSION_DENIED": errno.EACCES}


def check_room(directory: os.PathLike, size_bytes: int) -> None:
    """Raises OSError (ENOSPC) where a local disk has less room than `size_bytes`; the directory need not exist."""
    if "://" in str(directory):
        return
    there = next(place for place in (Path(directory), *Path(directory).parents) if place.exists())
    if shutil.disk_usage(there).free < size_bytes:
        raise OSError(errno.ENOSPC, f"no space left for a checkpoint of {size_bytes:,} bytes", str(directory))


def of_the_system(error: BaseException, path: os.PathLike) -> BaseException:
    """An error of tensorstore's as the OSError that it was, with the path being written; others as they are."""
    for name, number in _NUMBERS.items():
        if not isinstance(error, OSError) and name in str(error):
            return OSError(number, os.strerror(number), str(path))
    return error


def silence_orbax() -> None:
    """Keeps Orbax from printing the traceback of a write that failed: the caller of the save gets the error."""
    logger = logging.getLogger("absl")
    if _said_elsewhere not in logger.filters:
        logger.addFilter(_said_elsewhere)


def _said_elsewhere(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR or not record.getMessage().startswith("[process=")
