"""The files of text in a directory and those below it."""

from __future__ import annotations

import os
from pathlib import Path

from lm_jax.core.config import InputError
from lm_jax.data import files


def below(directory: Path) -> tuple[list[Path], int]:
    """The text files of a directory, by path, and how many other files lie there.

    Hidden files and folders are passed over. Links to folders are followed after all real folders, so that a folder
    that has a link beside it keeps its name, and each real folder is read once, so that a loop ends.

    Raises:
      InputError: there is no text file.
    """
    found: list[Path] = []
    others = 0
    seen: set[tuple[int, int]] = set()
    waiting = [str(directory)]
    unreadable: list[OSError] = []
    while waiting:
        links: list[str] = []
        for start in waiting:
            for place, folders, names in os.walk(start, onerror=unreadable.append):
                status = os.stat(place)
                if (status.st_dev, status.st_ino) in seen:
                    folders.clear()
                    continue
                seen.add((status.st_dev, status.st_ino))
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                links += [path for name in folders if os.path.islink(path := os.path.join(place, name))]
                paths = [Path(place, name) for name in names if not name.startswith(".")]
                texts = [path for path in paths if path.is_file() and files.is_text(path)]
                found += texts
                others += len(names) - len(texts)
        waiting = sorted(links)
    others += len(unreadable)
    if not found:
        raise InputError(f"config.data.path: {directory} is a directory without any text file ({others} others)")
    return sorted(found), others
