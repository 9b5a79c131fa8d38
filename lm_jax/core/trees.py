"""Parameter trees by path: nested dictionaries whose leaves have names such as `stack/layers/attention/out/kernel`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from flax import traverse_util

# Nested dictionaries of a model's parameters by name, or of what there is for each: shapes, axes, shardings.
Params = Mapping[str, Any]


def path_name(path: Sequence[Any]) -> str:
    """A jax key path as words joined with slashes."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def named_leaves(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[tuple[str, Any]]:
    """Every leaf of a tree with its path, in the order of `jax.tree.leaves`."""
    return [(path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf)]


def map_named(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`jax.tree.map` whose function gets the path first."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(path_name(path), *leaves), tree, *rest)


def matches(patterns: Sequence[str], path: str) -> bool:
    """Whether any regular expression of `patterns` is found in `path`."""
    return any(re.search(pattern, path) for pattern in patterns)


def count(tree: Any) -> int:
    """The number of scalars in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def size_bytes(tree: Any) -> int:
    """The bytes that the arrays or shapes of a tree take."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def flat(tree: Params) -> dict[str, Any]:
    """The leaves of nested dictionaries by path; anything else than a dictionary is a leaf."""
    return traverse_util.flatten_dict(tree, sep="/")


def nested(leaves: Params) -> Params:
    """The nested dictionaries whose leaves have these paths."""
    return traverse_util.unflatten_dict(dict(leaves), sep="/")


def partition(tree: Params, keep: Callable[[str], bool]) -> tuple[Params, Params]:
    """The leaves of nested dictionaries whose path is to be kept, and the others."""
    leaves = flat(tree)
    kept = {path: leaf for path, leaf in leaves.items() if keep(path)}
    return nested(kept), nested({path: leaf for path, leaf in leaves.items() if path not in kept})


def merged(*trees: Params) -> Params:
    """Nested dictionaries with different leaves as one."""
    return nested({path: leaf for tree in trees for path, leaf in flat(tree).items()})


def below(path: str, parents: Iterable[str]) -> bool:
    """Whether a path is one of `parents`, or lies below one."""
    return any(path == parent or path.startswith(f"{parent}/") for parent in parents)
