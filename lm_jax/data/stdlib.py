"""Python's standard library as a corpus: every interpreter has it, so a first run needs no download.

`docs` is prose about programming: the docstrings of every module and the reference topics of `help()`. `code` is the
source of the modules. Modules are parsed, never imported.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import os
import sysconfig
import tokenize
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

# Installed packages, which are not part of the library, and tests, which hold generated tables.
EXCLUDED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib2to3"}


def modules() -> list[Path]:
    """Return the files of all modules, sorted by path."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = []
    for folder, subfolders, names in os.walk(root):
        # In place, so that os.walk skips the excluded folders: there may be many installed packages.
        subfolders[:] = [name for name in subfolders if name not in EXCLUDED]
        paths += [Path(folder, name).relative_to(root) for name in names if name.endswith(".py")]
    return [root / path for path in sorted(paths) if path.name != "topics.py"]


def topics() -> list[Path]:
    """Return the file of reference topics, if there is one."""
    path = Path(sysconfig.get_paths()["stdlib"]) / "pydoc_data" / "topics.py"
    return [path] if path.exists() else []


def _source(path: Path) -> str:
    with tokenize.open(path) as file:
        return file.read()


def _parsed(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        # Some modules have invalid escape sequences on purpose.
        warnings.simplefilter("ignore")
        return ast.parse(_source(path))


def _docs() -> Iterator[str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in modules():
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        if sections := list(_docstrings(_parsed(path), name)):
            yield "\n\n".join(sections)
    for path in topics():
        for node in _parsed(path).body:
            if isinstance(node, ast.Assign):
                yield from (str(topic) for topic in ast.literal_eval(node.value).values())


def _docstrings(node: ast.AST, name: str) -> Iterator[str]:
    """Yield the dotted name and docstring of a module, its classes and its functions."""
    if text := node.body and ast.get_docstring(node, clean=False):  # type: ignore[attr-defined]
        yield f"{name}\n{inspect.cleandoc(text)}"
    for child in node.body:  # type: ignore[attr-defined]
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _docstrings(child, f"{name}.{child.name}")


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the library."""

    files: Callable[[], list[Path]]
    documents: Callable[[], Iterator[str]]


PARTS = {
    "docs": Part(files=lambda: modules() + topics(), documents=_docs),
    "code": Part(files=modules, documents=lambda: map(_source, modules())),
    "all": Part(
        files=lambda: modules() + topics(), documents=lambda: itertools.chain(_docs(), map(_source, modules()))
    ),
}
