"""Prompt files of several encodings, and output on terminals that lack characters."""

import codecs
import io
import json
import sys

import pytest

from lm_jax import main
from lm_jax.core.config import InputError
from lm_jax.verbs import generate, report


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\ntwo", ["one", "two"]),
        (b"one\r\n\r\ntwo\r\n", ["one", "", "two"]),
        (b"one\rtwo", ["one", "two"]),
        (b"\n", [""]),
        (codecs.BOM_UTF8 + "eins\u2028zwei\x0cdrei\x85vier\n".encode(), ["eins\u2028zwei\x0cdrei\x85vier"]),
        ("один\nдва\n".encode("utf-16"), ["один", "два"]),
        (codecs.BOM_UTF16_BE + "一\n二".encode("utf-16-be"), ["一", "二"]),
    ],
)
def test_only_line_breaks_separate_prompts(data, expected, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes(data)
    assert generate.lines(file) == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("one\nzwölf\n".encode("latin-1"), "line 2 is not UTF-8; convert the file"),
        (codecs.BOM_UTF16_LE + b"a", "line 1 is not UTF-16"),
        (b"", "is empty"),
        (codecs.BOM_UTF8, "is empty"),
        (None, "does not exist"),
    ],
)
def test_unreadable_files_are_refused_with_advice(data, message, tmp_path):
    file = tmp_path / "prompts.txt"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(InputError, match=message):
        generate.lines(file)


def test_a_prompt_that_is_not_unicode_is_refused():
    with pytest.raises(InputError, match="is not UTF-8 at character 2"):
        generate._unicode("ab\udcff")


def narrow(monkeypatch):
    """Replaces standard output by a terminal that has only Western European characters."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    return stream


def test_a_narrow_terminal_gets_escapes(monkeypatch):
    stream = narrow(monkeypatch)
    assert main.main(["lm-jax", "--version"]) == 0
    print("Привет, é")
    assert stream.buffer.getvalue().decode("cp1252").splitlines()[-1] == r"\u041f\u0440\u0438\u0432\u0435\u0442, é"


def test_json_is_json_on_a_narrow_terminal(monkeypatch):
    stream = narrow(monkeypatch)
    report.document({"text": "Привет 😀"})
    assert json.loads(stream.buffer.getvalue()) == {"text": "Привет 😀"}
