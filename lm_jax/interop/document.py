"""config.json as it lies beside a checkpoint, and what `--hf.FIELD=VALUE` lays over it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_jax.core import pointers
from lm_jax.core.config import InputError, nearest

CONFIG = "config.json"
# Where a Hub cache keeps the files of `models--OWNER--NAME`.
_SNAPSHOTS = "snapshots"


def read(path: Path) -> dict[str, Any]:
    """config.json of a directory."""
    file = path / CONFIG
    pointers.refuse(file)
    if not file.is_file():
        inside = sorted(str(other.parent) for other in (path / _SNAPSHOTS).glob(f"*/{CONFIG}"))
        raise InputError(
            f"{path} holds no {CONFIG}; give " + (" or ".join(inside) or "the directory of a Hugging Face checkpoint")
        )
    return parsed(file)


def parsed(file: Path) -> dict[str, Any]:
    """The object of a JSON file beside a checkpoint.

    Raises:
      InputError: it is a pointer to the file, or no JSON object.
    """
    pointers.refuse(file)
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is no JSON ({error}); download it again") from error
    if not isinstance(tree, dict):
        raise InputError(f"{file} is a {type(tree).__name__}; expected an object; download it again")
    return tree


def laid_over(tree: Mapping[str, Any], over: Mapping[str, str]) -> dict[str, Any]:
    """A config.json with fields set or dropped.

    Args:
      tree: the parsed file.
      over: texts by field: JSON, any other text for itself, and none at all drops the field.

    Raises:
      InputError: a field to drop is not there.
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
