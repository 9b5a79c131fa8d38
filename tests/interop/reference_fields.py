"""Collects the fields of config.json that the reference implementation can read, from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

# Folders of `transformers/models` whose names differ from their `model_type`.
FOLDERS = {"openai-gpt": "openai", "gemma3_text": "gemma3"}
# Files that the code of every family uses.
SHARED = (
    *("configuration_utils.py", "modeling_utils.py", "modeling_rope_utils.py", "masking_utils.py", "pytorch_utils.py"),
    *("modeling_attn_mask_utils.py", "modeling_flash_attention_utils.py", "modeling_layers.py"),
    *("core_model_loading.py", "integrations/heterogeneity"),
)


def family(package: Path, name: str) -> set[str]:
    """Fields in the family's folder of an installed `transformers`."""
    folder = package / "models" / FOLDERS.get(name, name.replace("-", "_"))
    files = [*folder.glob("configuration_*.py"), *folder.glob("modeling_*.py")]
    return {field for file in files if "_tf_" not in file.name and "_flax_" not in file.name for field in fields(file)}


def shared(package: Path) -> set[str]:
    """Fields in the code that all families share."""
    files = [file for name in SHARED for file in _files(package / name)]
    return {field for file in files for field in fields(file)}


def _files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.is_file() else []


def fields(file: Path) -> set[str]:
    """Names that a source file defines in a configuration class or reads from a configuration."""
    return set(_names(ast.parse(file.read_text(encoding="utf-8"))))


def _names(tree: ast.AST) -> Iterator[str]:
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and "Config" in node.name and "Onnx" not in node.name:
            yield from _defined(node)
        elif isinstance(node, ast.Attribute) and _is_config(node.value) and id(node) not in called:
            yield node.attr
        elif _calls(node, "getattr", "hasattr", "setattr") and _is_config(node.args[0]):
            yield _text(node.args[1])


def _defined(node: ast.ClassDef) -> Iterator[str]:
    """Fields, arguments and attributes of a configuration class, and their aliases."""
    for child in ast.walk(node):
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
            yield child.target.id
        elif isinstance(child, ast.FunctionDef) and child.name in ("__init__", "__post_init__"):
            yield from (argument.arg for argument in (*child.args.args[1:], *child.args.kwonlyargs))
        elif isinstance(child, ast.Attribute) and isinstance(child.ctx, ast.Store):
            yield child.attr
        elif isinstance(child, ast.Assign) and getattr(child.targets[0], "id", "") == "attribute_map":
            yield from map(_text, ast.walk(child.value))
        elif _calls(child, "getattr", "hasattr", "setattr"):
            yield _text(child.args[1])
        elif _calls(child, "get", "pop", "setdefault") and child.args:
            yield _text(child.args[0])


def _calls(node: ast.AST, *names: str) -> bool:
    """Whether a node calls a function or a method of one of these names."""
    called = getattr(node, "func", None)
    return isinstance(node, ast.Call) and (getattr(called, "id", "") or getattr(called, "attr", "")) in names


def _text(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _is_config(node: ast.AST) -> bool:
    """Whether an expression is a configuration: `config`, `self.config`, `text_config`."""
    return (getattr(node, "id", None) or getattr(node, "attr", None) or "").endswith("config")
