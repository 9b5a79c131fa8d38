"""The text files below a directory."""

from __future__ import annotations

import os
from pathlib import Path

from lm_jax.core.config import InputError
from lm_jax.data import files


def below(directory: Path) -> tuple[list[Path], int]:
    """Return the text files below a directory, sorted by path, and the number of other files.

    Hidden files and folders are skipped. Each real folder is read once, so that loops of links end. Links to folders
    are followed after all real folders, so that a folder is listed under its own path rather than that of a link.

    Raises:
      InputError: there is no text file.
    """
    result: list[Path] = []
    others = 0
    visited: set[tuple[int, int]] = set()
    starts = [str(directory)]
    unreadable: list[OSError] = []
    while starts:
        links: list[str] = []
        for start in starts:
            for place, folders, names in os.walk(start, onerror=unreadable.append):
                status = os.stat(place)
                if (status.st_dev, status.st_ino) in visited:
                    folders.clear()
                    continue
                visited.add((status.st_dev, status.st_ino))
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                links += [path for name in folders if os.path.islink(path := os.path.join(place, name))]
                paths = [Path(place, name) for name in names if not name.startswith(".")]
                texts = [path for path in paths if path.is_file() and files.is_text(path)]
                result += texts
                others += len(names) - len(texts)
        starts = sorted(links)
    others += len(unreadable)
    if not result:
        raise InputError(f"config.data.path: {directory} is a directory without any text file ({others} others)")
    return sorted(result), others
