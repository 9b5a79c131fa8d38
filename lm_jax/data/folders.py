"""The text files below a directory."""

from __future__ import annotations

import os
from pathlib import Path

from lm_jax.core.config import InputError
from lm_jax.data import files


def below(directory: Path) -> tuple[list[Path], int]:
    """Return the text files below a directory, sorted by path, and the number of other files.

    Hidden files and folders are skipped. Each folder is read once, so that loops of links end. Links to folders are
    followed last, so that a folder is listed under its real path rather than that of a link.

    Raises:
      InputError: there is no text file.
    """
    result: list[Path] = []
    others = 0
    visited: set[tuple[int, int]] = set()
    roots = [str(directory)]
    unreadable: list[OSError] = []
    while roots:
        links: list[str] = []
        for root in roots:
            for folder, subfolders, names in os.walk(root, onerror=unreadable.append):
                status = os.stat(folder)
                if (status.st_dev, status.st_ino) in visited:
                    subfolders.clear()
                    continue
                visited.add((status.st_dev, status.st_ino))
                subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
                links += [path for name in subfolders if os.path.islink(path := os.path.join(folder, name))]
                paths = [Path(folder, name) for name in names if not name.startswith(".")]
                texts = [path for path in paths if path.is_file() and files.is_text(path)]
                result += texts
                others += len(names) - len(texts)
        roots = sorted(links)
    others += len(unreadable)
    if not result:
        raise InputError(f"config.data.path: {directory} is a directory without any text file ({others} others)")
    return sorted(result), others
