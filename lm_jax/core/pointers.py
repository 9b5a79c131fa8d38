"""Git LFS pointers (github.com/git-lfs/git-lfs, docs/spec.md): what a clone has in place of files not yet fetched."""

from __future__ import annotations

import re
from pathlib import Path

from lm_jax.core.config import InputError

_START = b"version https://git-lfs.github.com/spec/"
# The specification allows no more.
_LONGEST = 1024


def refuse(file: Path) -> None:
    """Raises InputError where a file is a pointer; nothing is said of one that cannot be read."""
    try:
        if file.stat().st_size > _LONGEST:
            return
        content = file.read_bytes()
    except OSError:
        return
    if content.startswith(_START):
        size = re.search(rb"^size (\d+)$", content, re.MULTILINE)
        meant = f"the {int(size[1]):,} bytes" if size else "the file"
        raise InputError(
            f"{file} is a Git LFS pointer in place of {meant} that it stands for; run git lfs pull in that directory, "
            "or download the file again"
        )
