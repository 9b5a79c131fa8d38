"""Git LFS pointers (github.com/git-lfs/git-lfs, docs/spec.md): a clone's placeholders for files not yet fetched."""

from __future__ import annotations

import re
from pathlib import Path

from lm_jax.core.config import InputError

_START = b"version https://git-lfs.github.com/spec/"
_MAX_BYTES = 1024  # by the specification


def refuse(file: Path) -> None:
    """Raises InputError if `file` is a pointer; ignores files that cannot be read."""
    try:
        if file.stat().st_size > _MAX_BYTES:
            return
        content = file.read_bytes()
    except OSError:
        return
    if content.startswith(_START):
        size = re.search(rb"^size (\d+)$", content, re.MULTILINE)
        target = f"{int(size[1]):,} bytes" if size else "the file"
        raise InputError(
            f"{file} is a Git LFS pointer, a placeholder for {target}; run git lfs pull in that directory, "
            "or download the file again"
        )
