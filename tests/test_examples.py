"""The examples in docstrings, run as doctests from the root of the repository."""

import doctest
import importlib

import pytest

from tests.commands import ROOT

FILES = [path.relative_to(ROOT) for path in sorted((ROOT / "lm_jax").rglob("*.py")) if ">>> " in path.read_text()]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", [".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in FILES])
def test_examples_print_what_they_show(name, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=OPTIONS)
    assert tried and not failed, capsys.readouterr().out
