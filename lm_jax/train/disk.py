"""Full disks: detected before a checkpoint is written, or reported as OSError when writing fails."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path

# Status codes that tensorstore's messages contain.
_ERRNOS = {"RESOURCE_EXHAUSTED": errno.ENOSPC, "PERMISSION_DENIED": errno.EACCES}


def check_room(directory: os.PathLike, size_bytes: int) -> None:
    """Raises OSError (ENOSPC) if a local disk has less than `size_bytes` free; the directory need not exist."""
    if "://" in str(directory):
        return
    existing = next(path for path in (Path(directory), *Path(directory).parents) if path.exists())
    if shutil.disk_usage(existing).free < size_bytes:
        raise OSError(errno.ENOSPC, f"no space left for a checkpoint of {size_bytes:,} bytes", str(directory))


def as_os_error(error: BaseException, path: os.PathLike) -> BaseException:
    """Converts a system error reported by tensorstore to an OSError with `path`; returns other errors unchanged."""
    for name, number in _ERRNOS.items():
        if not isinstance(error, OSError) and name in str(error):
            return OSError(number, os.strerror(number), str(path))
    return error


def silence_orbax() -> None:
    """Stops Orbax from logging the traceback of a failed write, because `Checkpointer` raises the error."""
    logger = logging.getLogger("absl")
    if _is_no_orbax_error not in logger.filters:
        logger.addFilter(_is_no_orbax_error)


def _is_no_orbax_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR or not record.getMessage().startswith("[process=")
