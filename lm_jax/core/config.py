"""Strict conversion between `ml_collections.ConfigDict` and frozen dataclasses.

A recipe is a ConfigDict, so that the command line can override every field; the library itself reads frozen
dataclasses only. A mismatch raises an `InputError` that names the key, the value and what was expected.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import math
import operator
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import ml_collections
from ml_collections import config_dict

Config = TypeVar("Config")
Entry = TypeVar("Entry")
_TREES = (Mapping, ml_collections.ConfigDict)


class InputError(ValueError):
    """Invalid user input; the message is one line that says what to do. Exit code 2."""


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
    """A dataclass field with restrictions on its values, which `from_config_dict` checks.

    Args:
      default: an immutable value.
      free: the field may change when a run is resumed, because it affects neither the model, the order of the data nor
        the objective. For a subtree: all of its fields.
      local: the field is a path on this machine, or several separated by commas.
      at_least: inclusive lower bound of a number, which must then be finite, or of each element of a tuple.
      above: exclusive lower bound.
      at_most: inclusive upper bound.
      below: exclusive upper bound.
    """
    bounds = {"at least": at_least, "above": above, "at most": at_most, "below": below}
    bounds = {name: bound for name, bound in bounds.items() if bound is not None}
    return dataclasses.field(default=default, metadata={"free": free, "local": local, "bounds": bounds})


class Tree(dict):
    """Settings under user-defined names: a hashable mapping, not to be modified after construction."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


def lookup(table: Mapping[str, Entry], name: str, key: str) -> Entry:
    """Returns `table[name]`.

    Args:
      table: the choices by name.
      name: the value of a setting.
      key: the setting, for the message.

    Raises:
      InputError: the table has no such name; the message lists the choices and the nearest one.

    Example:
      >>> lookup({"adamw": 1, "lion": 2}, "lion", "config.optimizer.name")
      2
      >>> lookup({"adamw": 1, "lion": 2}, "adamv", "config.optimizer.name")
      Traceback (most recent call last):
      lm_jax.core.config.InputError: config.optimizer.name is 'adamv'; expected one of adamw, lion; did you mean adamw?
    """
    if name not in table:
        raise InputError(f"{key} is {name!r}; expected one of {', '.join(table)}{nearest(name, table)}")
    return table[name]


def nearest(name: str, names: Iterable[str]) -> str:
    """Returns `; did you mean X?` for the closest of `names`, or an empty string."""
    close = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def to_config_dict(config: Any) -> ml_collections.ConfigDict:
    """Converts nested dataclasses to a ConfigDict in which every field, also one that is None, can be overridden."""
    hints = typing.get_type_hints(type(config))
    tree = ml_collections.ConfigDict()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            tree[field.name] = to_config_dict(value)
        elif isinstance(value, Tree):
            tree[field.name] = ml_collections.ConfigDict(_as_dict(value))
        elif value is None:
            inner = _without_none(hints[field.name])
            kind = ml_collections.ConfigDict if dataclasses.is_dataclass(inner) else typing.get_origin(inner) or inner
            tree[field.name] = config_dict.placeholder(kind)
        else:
            tree[field.name] = value
    return tree


def from_config_dict(cls: type[Config], tree: Any, key: str = "config") -> Config:
    """Builds a dataclass from a ConfigDict or a mapping; missing fields keep their defaults.

    Args:
      cls: the dataclass to build.
      tree: the values; nested mappings become nested dataclasses, lists become tuples.
      key: the name of this tree in error messages.

    Returns:
      An instance of `cls`, checked against its types and bounds.

    Raises:
      InputError: unknown key, wrong type, value out of bounds, or missing field without a default.

    Example:
      >>> from lm_jax.parallel.mesh import MeshConfig
      >>> from_config_dict(MeshConfig, {"fsdp": 4})
      MeshConfig(data=-1, fsdp=4, tensor=1, auto=False)
      >>> from_config_dict(MeshConfig, {"fdsp": 4})
      Traceback (most recent call last):
      lm_jax.core.config.InputError: unknown key config.fdsp; did you mean fsdp?
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if not isinstance(tree, _TREES):
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


def build_entries(cls: type[Config], tree: Mapping[str, Any], key: str) -> dict[str, Config]:
    """Builds one dataclass per entry of a tree of user-defined names, in alphabetical order.

    Raises:
      InputError: as in `from_config_dict`, or a name has characters other than letters, digits, _ and -.
    """
    for name in tree:
        if not name.replace("_", "a").replace("-", "a").isalnum():
            raise InputError(f"{key}.{name}: expected a name of letters, digits, _ and -")
    return {name: from_config_dict(cls, tree[name], f"{key}.{name}") for name in sorted(tree)}


_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_COMPARISONS = {"at least": operator.ge, "above": operator.gt, "at most": operator.le, "below": operator.lt}


def check_local(path: str | None, key: str) -> None:
    """Raises InputError for addresses such as gs://bucket/run, which would become local folders of that name."""
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
        if not math.isfinite(number) or not all(_COMPARISONS[name](number, bound) for name, bound in bounds.items()):
            expected = " and ".join(f"{name} {bound:g}" for name, bound in bounds.items())
            raise InputError(f"{key} is {value!r}; expected a number {expected}")


def replace_fields(config: Config, over: Mapping[str, Any], key: str) -> Config:
    """Replaces fields of nested dataclasses by those of a sparse tree, such as `{"attention": {"window": 8}}`.

    An InputError for an unknown field or a wrong type names it below `key`.
    """
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    for name, value in over.items():
        nested = isinstance(value, Mapping) and dataclasses.is_dataclass(values.get(name))
        values[name] = replace_fields(values[name], value, f"{key}.{name}") if nested else value
    return from_config_dict(type(config), values, key)


def merge(base: ml_collections.ConfigDict, over: Any, key: str = "config") -> ml_collections.ConfigDict:
    """Returns `base` with the values of `over`; raises InputError for a key that is not in `base`."""
    # Not ConfigDict(base), which would share its unset fields with `base`: setting one would set it in both.
    merged = copy.deepcopy(base)
    # An empty tree is for user-defined names: any key is accepted here, and checked by the code that reads the tree.
    closed = len(merged) > 0
    for name, value in over.items():
        if name not in merged and closed:
            raise InputError(f"unknown key {key}.{name}{nearest(name, merged) or '; known: ' + ', '.join(merged)}")
        if isinstance(old := merged.get(name), ml_collections.ConfigDict) and isinstance(value, _TREES):
            merged[name] = merge(old, value, f"{key}.{name}")
        else:
            # An int in a float field becomes a float; as an int it would make the flag accept integers only.
            integral = isinstance(value, int) and not isinstance(value, bool) and merged.get_type(name) is float
            with merged.ignore_type():
                merged[name] = float(value) if integral else value
    return merged


def differences(before: Any, after: Any, key: str = "config") -> list[str]:
    """Returns one line `key: before -> after` for every leaf that differs between two trees."""
    lines: list[str] = []
    before, after = dict(before or {}), dict(after or {})
    for name in sorted(set(before) | set(after)):
        old, new = before.get(name), after.get(name)
        # A subtree that is missing in `before` or `after` is listed field by field.
        if isinstance(old, _TREES) and isinstance(new, _TREES) or isinstance(old or new, _TREES) and None in (old, new):
            lines += differences(old, new, f"{key}.{name}")
        elif _as_lists(old) != _as_lists(new):
            lines.append(f"{key}.{name}: {_as_lists(old)!r} -> {_as_lists(new)!r}")
    return lines


def free_keys(cls: Any, key: str = "config") -> list[str]:
    """Returns the keys of the `free` fields of a settings dataclass; a free subtree has one key."""
    hints, keys = typing.get_type_hints(cls), []
    for field in dataclasses.fields(cls):
        name, hint = f"{key}.{field.name}", _without_none(hints[field.name])
        if field.metadata.get("free"):
            keys.append(name)
        elif dataclasses.is_dataclass(hint):
            keys += free_keys(hint, name)
    return keys


def _as_lists(value: Any) -> Any:
    """Returns `value` with tuples as lists, because JSON does not distinguish them."""
    return [_as_lists(item) for item in value] if isinstance(value, (tuple, list)) else value


def _as_dict(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _as_dict(value) if isinstance(value, Mapping) else value for name, value in tree.items()}


def _hashable(value: Any) -> Any:
    """Returns `value` with mappings as `Tree` and lists as tuples."""
    if isinstance(value, _TREES):
        return Tree((name, _hashable(item)) for name, item in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, (list, tuple)) else value


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return inner[0] if len(inner) == 1 else hint
    return hint


def _convert(hint: Any, value: Any, key: str) -> Any:
    """Returns `value` checked against `hint` and converted to it."""
    optional = type(None) in typing.get_args(hint)
    hint = _without_none(hint)
    if value is None:
        if optional:
            return None
        raise InputError(f"{key} is None; expected {_type_name(hint)}")
    if hint is Tree:
        if not isinstance(value, _TREES):
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
        raise InputError(f"{key} is {value!r} ({type(value).__name__}); expected {_type_name(hint)}")
    return value


def _type_name(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint))
