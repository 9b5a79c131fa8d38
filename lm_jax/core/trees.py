"""Parameter trees by path: nested dictionaries whose leaves have names such as `stack/layers/attention/out/kernel`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax


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
