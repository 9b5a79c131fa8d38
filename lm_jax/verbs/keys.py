"""Every `--config.KEY` of a recipe, for shell completion, which must answer at once.

The keys are parsed from the source of the dataclasses, because importing those would import jax. A test compares them
with `experiment.complete` for every recipe.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).resolve().parents[2]


def keys(recipe: Any) -> list[str]:
    """Returns the keys that can be set for a recipe, such as `config.optimizer.learning_rate`.

    Args:
      recipe: the result of `get_config`, or a saved `config.json`.
    """
    others = recipe.get("models") or {}
    models = {"config.model": recipe.get("model") or {}, **{f"config.models.{role}": others[role] for role in others}}
    names = {"model"} | ({"models"} if others else set())
    paths = [f"config.{key}" for key in _fields("lm_jax.experiment", "ExperimentConfig", recipe) if key not in names]
    for tree, model in models.items():
        kind = _table("lm_jax.models.config", "KINDS").get(model.get("kind", "decoder"), "TransformerConfig")
        paths += [f"{tree}.{key}" for key in _fields("lm_jax.models.config", kind, model)]
    for tree, entry in _table("lm_jax.experiment.config", "ENTRIES").items():
        entries = functools.reduce(lambda value, name: (value or {}).get(name), tree.split(".")[1:], recipe) or {}
        for name in entries:
            paths += [f"{tree}.{name}.{key}" for key in _fields("lm_jax.experiment.config", entry, entries[name])]
    return paths


def _fields(module: str, name: str, recipe: Any) -> Iterator[str]:
    """Yields the leaves of a dataclass; an optional subtree is expanded only if the recipe sets it."""
    home, node = cast(tuple[str, ast.ClassDef], _find(module, name))
    for field in node.body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        key, annotation = field.target.id, ast.unparse(field.annotation)
        names = [part.strip() for part in annotation.split("|")]
        value = recipe.get(key) if hasattr(recipe, "get") else None
        inner = _find(home, names[0]) if names[0].replace(".", "").isidentifier() else None
        if inner is None or ("None" in names and not hasattr(value, "keys")):
            yield key
        else:
            for deeper in _fields(inner[0], inner[1].name, value):
                yield f"{key}.{deeper}"


@functools.cache
def _find(module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """Finds the class that `name` (`Class` or `module.Class`) means in a module: its own module and its node."""
    tree = _parse(module)
    if tree is None:
        return None
    head, _, rest = name.partition(".")
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lm_jax"):
            for alias in node.names:
                if (alias.asname or alias.name) == head:
                    # `from lm_jax.a import b` imports the module b or the name b of the module a.
                    return _find(f"{node.module}.{alias.name}", rest) if rest else _find(str(node.module), alias.name)
    return None


@functools.cache
def _table(module: str, name: str) -> dict[str, str]:
    """Returns a table of classes, `name` of a module, with the names of the classes."""
    for node in cast(ast.Module, _parse(module)).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            table = cast(ast.Dict, node.value)
            pairs = zip(table.keys, table.values, strict=True)
            return {ast.literal_eval(key): ast.unparse(value) for key, value in pairs if key is not None}
    return {}


@functools.cache
def _parse(module: str) -> ast.Module | None:
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text()) if file.is_file() else None
