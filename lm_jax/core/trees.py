"""Parameter trees by path: nested dictionaries whose leaves have paths such as `stack/layers/attention/out/kernel`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from flax import traverse_util

# Nested dictionaries by name, with a leaf per parameter: its array, shape, logical axes or sharding.
Params = Mapping[str, Any]


def path_name(path: Sequence[Any]) -> str:
    """Joins a jax key path with slashes."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def named_leaves(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[tuple[str, Any]]:
    """Returns (path, leaf) for every leaf of a tree, in the order of `jax.tree.leaves`."""
    return [(path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf)]


def map_named(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Like `jax.tree.map`, but `function` takes the path as its first argument."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(path_name(path), *leaves), tree, *rest)


def matches(patterns: Sequence[str], path: str) -> bool:
    """Returns whether any of the regular expressions `patterns` matches anywhere in `path`."""
    return any(re.search(pattern, path) for pattern in patterns)


def selects(patterns: Sequence[str], path: str) -> bool:
    """Returns whether a regular expression matches the path `ROLE/REST` of a parameter, or its REST, as it is listed.

    Example:
      >>> selects(["^task/"], "model/task/out/kernel"), selects(["^model/task"], "model/task/out/kernel")
      (True, True)
    """
    return matches(patterns, path) or matches(patterns, path.partition("/")[2])


def count(tree: Any) -> int:
    """Counts the scalars of a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def size_bytes(tree: Any) -> int:
    """Returns the memory of a tree of arrays or shapes, in bytes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def flatten(tree: Params) -> dict[str, Any]:
    """Flattens nested dictionaries to path -> leaf; every value that is not a dictionary is a leaf."""
    return traverse_util.flatten_dict(tree, sep="/")


def unflatten(leaves: Params) -> Params:
    """The inverse of `flatten`."""
    return traverse_util.unflatten_dict(dict(leaves), sep="/")


def partition(tree: Params, keep: Callable[[str], bool]) -> tuple[Params, Params]:
    """Splits nested dictionaries by the paths of their leaves.

    Args:
      tree: nested dictionaries of arrays.
      keep: maps a path such as `stack/layers/attention/query/kernel` to whether its leaf is in the first tree.

    Returns:
      The tree of the leaves that `keep` accepts and the tree of the others; `merge` joins them again.

    Example:
      >>> params = {"embed": {"table": 1}, "head": {"kernel": 2, "bias": 3}}
      >>> partition(params, lambda path: path.startswith("head/"))
      ({'head': {'kernel': 2, 'bias': 3}}, {'embed': {'table': 1}})
    """
    leaves = flatten(tree)
    selected = {path: leaf for path, leaf in leaves.items() if keep(path)}
    return unflatten(selected), unflatten({path: leaf for path, leaf in leaves.items() if path not in selected})


def merge(*trees: Params) -> Params:
    """Merges nested dictionaries that have no path in common."""
    return unflatten({path: leaf for tree in trees for path, leaf in flatten(tree).items()})


def is_below(path: str, parents: Iterable[str]) -> bool:
    """Returns whether a path is one of `parents` or lies below one."""
    return any(path == parent or path.startswith(f"{parent}/") for parent in parents)
