"""Values of `--config.KEY=VALUE`: text, parsed as the type that the key has."""

from __future__ import annotations

import ast
import typing
from typing import Any

from lm_jax.core.config import InputError


def parse(tree: Any, name: str, text: str, key: str, entry: type | None) -> Any:
    """Parses `text` as the type of a field of a ConfigDict; the text `None` leaves an unset field unset.

    Args:
      tree: the tree of the field.
      name: the field.
      text: its new value.
      key: the whole key, for the message.
      entry: the dataclass of `tree` if its names are the user's: its tuples of texts, as names of labels, may be `1,2`.

    Raises:
      InputError: the text is no value of this type.
    """
    item = str if entry and typing.get_type_hints(entry).get(name) == tuple[str, ...] else _item
    kind = tree.get_type(name)
    if text == "None" and tree[name] is None:
        return None
    booleans = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    try:
        if kind is bool:
            return booleans[text.lower()]
        if kind in (tuple, list):  # A list if the configuration was read from JSON.
            return tuple(ast.literal_eval(text) if text[:1] in {*"(["} else map(item, filter(None, text.split(","))))
        return kind(text)
    except (KeyError, ValueError, SyntaxError, TypeError) as error:
        raise InputError(f"{key} is {text!r}; expected {kind.__name__}") from error


def _item(text: str) -> int | float | str:
    """Parses an unquoted item of a tuple as int, else as float, else as text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
