"""ConfigDict at the edge, frozen dataclasses inside: the strict bridge between the two.

A recipe is an `ml_collections.ConfigDict`, so that every field can be overridden on the command line.
The library reads frozen dataclasses only. `to_config_dict` and `from_config_dict` convert, and every
disagreement is an `InputError` that names the key, what came and what was expected.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import ml_collections
from ml_collections import config_dict

Config = TypeVar("Config")
Entry = TypeVar("Entry")


class InputError(ValueError):
    """What the user gave cannot work; the message is one line that says what to do. Exit code 2."""


def setting(
    default: Any,
    *,
    free: bool = False,
    local: bool = False,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> Any:
    """A field of a settings dataclass that says which values it takes.

    Args:
      default: the field's default, a frozen value.
      free: two runs of one work directory may differ in it, because it changes neither the model nor the order of the
        data nor the objective. Of a subtree, all fields are free.
      local: a path, or several separated by commas, which must be on this machine.
      at_least: the smallest number, or the smallest of a tuple's numbers; `from_config_dict` checks the bounds, and a
        number that has some is finite.
      above: a number below the smallest.
      at_most: the largest number.
      below: a number above the largest.
    """
    bounds = {"at least": at_least, "above": above, "at most": at_most, "below": below}
    bounds = {name: bound for name, bound in bounds.items() if bound is not None}
    return dataclasses.field(default=default, metadata={"free": free, "local": local, "bounds": bounds})


class Tree(dict):
    """Settings whose keys are the user's own names: a mapping that can be hashed, and is not changed once made."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


def lookup(table: Mapping[str, Entry], name: str, key: str) -> Entry:
    """The entry of a table of choices.

    Args:
      table: the choices by name.
      name: what was asked for.
      key: where it was asked for, such as `config.optimizer.name`.

    Raises:
      InputError: lists the choices when there is no such entry.
    """
    if name not in table:
        raise InputError(f"{key} is {name!r}, which is none of {', '.join(table)}{nearest(name, table)}")
    return table[name]


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean X?` for the closest of `names`, or nothing."""
    close = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def to_config_dict(config: Any) -> ml_collections.ConfigDict:
    """A dataclass tree as a ConfigDict whose every field, the unset ones too, can be overridden."""
    hints = typing.get_type_hints(type(config))
    tree = ml_collections.ConfigDict()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            tree[field.name] = to_config_dict(value)
        elif isinstance(value, Tree):
            tree[field.name] = ml_collections.ConfigDict(_opened(value))
        elif value is None:
            inner = _without_none(hints[field.name])
            kind = ml_collections.ConfigDict if dataclasses.is_dataclass(inner) else typing.get_origin(inner) or inner
            tree[field.name] = config_dict.placeholder(kind)
        else:
            tree[field.name] = value
    return tree


def from_config_dict(cls: type[Config], tree: Any, key: str = "config") -> Config:
    """A dataclass from a ConfigDict or a plain mapping; fields left out keep their defaults.

    Args:
      cls: the dataclass to build.
      tree: the values; nested mappings become nested dataclasses, lists become tuples.
      key: the name of this tree in error messages.

    Raises:
      InputError: an unknown key (with the nearest one), a wrong type or a missing field.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if not isinstance(tree, (Mapping, ml_collections.ConfigDict)):
        raise InputError(f"{key} is {tree!r}; expected a tree of {', '.join(fields)}")
    for name in tree:
        if name not in fields:
            raise InputError(f"unknown key {key}.{name}{nearest(name, fields) or '; known: ' + ', '.join(fields)}")
    values = {name: _convert(hints[name], tree[name], f"{key}.{name}") for name in fields if name in tree}
    for name, value in values.items():
        _check_bounds(value, fields[name].metadata.get("bounds", {}), f"{key}.{name}")
        if fields[name].metadata.get("local"):
            check_local(value, f"{key}.{name}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise InputError(f"{key}.{name} is not set and has no default; set it with --{key}.{name}=...")
    return cls(**values)


def entries(cls: type[Config], tree: Mapping[str, Any], key: str) -> dict[str, Config]:
    """The dataclasses of a tree whose keys are the user's own names, in alphabetical order.

    Raises:
      InputError: as of `from_config_dict`; or a name that is more than letters, digits, _ and -.
    """
    for name in tree:
        if not name.replace("_", "a").replace("-", "a").isalnum():
            raise InputError(f"{key}.{name}: expected a name of letters, digits, _ and -")
    return {name: from_config_dict(cls, tree[name], f"{key}.{name}") for name in sorted(tree)}


_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_INSIDE = {
    "at least": lambda value, bound: value >= bound,
    "above": lambda value, bound: value > bound,
    "at most": lambda value, bound: value <= bound,
    "below": lambda value, bound: value < bound,
}


def check_local(path: str | None, key: str) -> None:
    """Refuses addresses such as gs://bucket/run, which would become folders of that name on this machine.

    Raises:
      InputError: the path has a scheme.
    """
    for part in (path or "").split(","):
        if _ADDRESS.match(part.strip()):
            raise InputError(
                f"{key} is {part.strip()}; expected a path on this machine: mount the bucket, for instance with "
                "gcsfuse, and give the path below it"
            )


def _check_bounds(value: Any, bounds: Mapping[str, float], key: str) -> None:
    if isinstance(value, float) and math.isnan(value):
        raise InputError(f"{key} is nan; expected a number")
    for number in value if isinstance(value, tuple) else (value,):
        if not bounds or number is None:
            continue
        if not math.isfinite(number) or not all(_INSIDE[name](number, bound) for name, bound in bounds.items()):
            expected = " and ".join(f"{name} {bound:g}" for name, bound in bounds.items())
            raise InputError(f"{key} is {value!r}; expected a number {expected}")


def replaced(config: Config, over: Mapping[str, Any], key: str) -> Config:
    """A dataclass with the fields of a sparse tree, such as `{"attention": {"window": 8}}`, put in.

    Raises:
      InputError: a field of `over` that there is not, or a wrong type; it is named as a part of `key`.
    """
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    for name, value in over.items():
        inside = isinstance(value, Mapping) and dataclasses.is_dataclass(values.get(name))
        values[name] = replaced(values[name], value, f"{key}.{name}") if inside else value
    return from_config_dict(type(config), values, key)


def merge(base: ml_collections.ConfigDict, over: Any, key: str = "config") -> ml_collections.ConfigDict:
    """`base` with the values of `over`; a key that `base` does not know raises InputError."""
    # Not ConfigDict(base): a copy made so shares the unset fields, and setting one would set it in both.
    merged = copy.deepcopy(base)
    # An empty tree has no names of its own: it takes the user's, and whoever reads it judges them.
    closed = len(merged) > 0
    for name, value in over.items():
        if name not in merged and closed:
            raise InputError(f"unknown key {key}.{name}{nearest(name, merged) or '; known: ' + ', '.join(merged)}")
        if isinstance(merged.get(name), ml_collections.ConfigDict) and isinstance(
            value, (Mapping, ml_collections.ConfigDict)
        ):
            inner: Any = merged[name]
            merged[name] = merge(inner, value, f"{key}.{name}")
        else:
            # A whole number for a field of floats is a float, or the command line could give it whole numbers only.
            whole = isinstance(value, int) and not isinstance(value, bool) and merged.get_type(name) is float
            with merged.ignore_type():
                merged[name] = float(value) if whole else value
    return merged


def differences(before: Any, after: Any, key: str = "config") -> list[str]:
    """One line `key: before -> after` for every leaf that differs between two trees."""
    lines: list[str] = []
    before, after = dict(before or {}), dict(after or {})
    for name in sorted(set(before) | set(after)):
        old, new = before.get(name), after.get(name)
        tree = (Mapping, ml_collections.ConfigDict)
        # An entry that only one of them has is named field by field.
        if isinstance(old, tree) and isinstance(new, tree) or (isinstance(old or new, tree) and None in (old, new)):
            lines += differences(old, new, f"{key}.{name}")
        elif _plain(old) != _plain(new):
            lines.append(f"{key}.{name}: {_plain(old)!r} -> {_plain(new)!r}")
    return lines


def free_keys(cls: Any, key: str = "config") -> list[str]:
    """The keys of the fields that two runs of one work directory may differ in, whole subtrees by their own key.

    Args:
      cls: a settings dataclass.
      key: the name of its tree.
    """
    hints, keys = typing.get_type_hints(cls), []
    for field in dataclasses.fields(cls):
        name, hint = f"{key}.{field.name}", _without_none(hints[field.name])
        if field.metadata.get("free"):
            keys.append(name)
        elif dataclasses.is_dataclass(hint):
            keys += free_keys(hint, name)
    return keys


def _plain(value: Any) -> Any:
    """Tuples and lists are the same thing once they have been through JSON."""
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _opened(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _opened(value) if isinstance(value, Mapping) else value for name, value in tree.items()}


def _hashable(value: Any) -> Any:
    """`value` with mappings as `Tree` and lists as tuples."""
    if isinstance(value, (Mapping, ml_collections.ConfigDict)):
        return Tree((name, _hashable(item)) for name, item in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, (list, tuple)) else value


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return inner[0] if len(inner) == 1 else hint
    return hint


def _convert(hint: Any, value: Any, key: str) -> Any:
    """`value` as `hint`, the small language of types that configurations use."""
    optional = type(None) in typing.get_args(hint)
    hint = _without_none(hint)
    if value is None:
        if optional:
            return None
        raise InputError(f"{key} is None; expected {_name(hint)}")
    if hint is Tree:
        if not isinstance(value, (Mapping, ml_collections.ConfigDict)):
            raise InputError(f"{key} is {value!r}; expected a tree of settings")
        return _hashable(value)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_config_dict(hint, value, key)  # type: ignore[arg-type]
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (tuple, list)):
            raise InputError(f"{key} is {value!r}; expected a tuple, such as ('a', 'b')")
        inner = typing.get_args(hint)[0]
        return tuple(_convert(inner, item, f"{key}[{index}]") for index, item in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise InputError(f"{key} is {value!r} ({type(value).__name__}); expected {_name(hint)}")
    return value


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint))
