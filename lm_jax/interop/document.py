"""Reads config.json of a checkpoint and overrides its fields (`--hf.FIELD=VALUE`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_jax.core import pointers
from lm_jax.core.config import InputError, nearest

CONFIG = "config.json"
# A Hub cache stores a model's files in `models--OWNER--NAME/snapshots/REVISION`.
_SNAPSHOTS = "snapshots"


def read(path: Path) -> dict[str, Any]:
    """Parse config.json of a directory."""
    file = path / CONFIG
    pointers.refuse(file)
    if not file.is_file():
        snapshots = sorted(str(other.parent) for other in (path / _SNAPSHOTS).glob(f"*/{CONFIG}"))
        instead = " or ".join(snapshots) or "the directory of a Hugging Face checkpoint"
        raise InputError(f"{path} holds no {CONFIG}; give {instead}")
    return parse(file)


def parse(file: Path) -> dict[str, Any]:
    """Parse a JSON object from a file of a checkpoint.

    Raises:
      InputError: the file is a Git LFS pointer or not a JSON object.
    """
    pointers.refuse(file)
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON ({error}); download it again") from error
    if not isinstance(tree, dict):
        raise InputError(f"{file} is a {type(tree).__name__}; expected an object; download it again")
    return tree


def override(tree: Mapping[str, Any], over: Mapping[str, str]) -> dict[str, Any]:
    """Set or drop fields of a config.json.

    `over` has values by field, as JSON or, if that fails, as plain text; an empty value drops the field.

    Raises:
      InputError: a field to drop is missing.
    """
    changed = dict(tree)
    for name, text in over.items():
        if text:
            changed[name] = _value(text)
        elif name not in changed:
            raise InputError(f"--hf.{name}= drops {name}, which {CONFIG} does not have{nearest(name, tree)}")
        else:
            del changed[name]
    return changed


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
