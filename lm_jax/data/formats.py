"""What a file holds: plain text, JSON or a table, by its name or, where that does not tell, by how it starts."""

from __future__ import annotations

import codecs
import dataclasses
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from lm_jax.core.config import InputError, lookup
from lm_jax.data import files, objects, records
from lm_jax.data.records import Record, Wanted

KEY = "config.data.format"
# What is not one of these is plain text.
READERS: dict[str, Callable[[io.BufferedReader, Wanted], Iterator[Record]]] = {
    "JSON lines": records.json_lines,
    "JSON objects": records.json_values,
    "a JSON array": records.json_values,
    "tsv": records.tabs,
    "csv": records.commas,
}
_JSON_LINES = (".jsonl", ".ndjson", ".jsonlines")
_SUFFIXES = {**dict.fromkeys(_JSON_LINES, "JSON lines"), ".tsv": "tsv", ".csv": "csv"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """What a file was taken for.

    Attributes:
      name: a key of `READERS`, or "text".
      guessed: the content decided, not the name or the setting.
      compressions, encoding: as of `files.Content`.
    """

    name: str
    guessed: bool
    compressions: tuple[str, ...]
    encoding: str

    @property
    def has_fields(self) -> bool:
        """Whether it holds records."""
        return self.name in READERS


def identify(path: Path, choice: str) -> Format:
    """The format of a file under a choice of `CHOICES`.

    Raises:
      InputError: there is no such choice, or the file is no text or damaged.
    """
    decide = lookup(CHOICES, choice, KEY)
    with files.opened(path) as content:
        name, guessed = decide(path, content.stream)
        return Format(name=name, guessed=guessed, compressions=content.compressions, encoding=content.encoding)


def note(path: Path, form: Format) -> str:
    """What was taken for what, such as "x.json: JSON lines", where the content decided, else nothing."""
    # Not where the name says that there is a compression: it need not say which.
    unnamed = form.compressions if files.kind(path) == path.suffix.lower() else ()
    if not form.guessed and not unnamed:
        return ""
    return f"{form.name if form.has_fields else 'plain text'}{''.join(f', {name}' for name in unnamed)}"


def _auto(path: Path, stream: io.BufferedReader) -> tuple[str, bool]:
    suffix = files.kind(path)
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix], False
    if suffix == ".json":
        return _json(path, stream)[0], True
    name = _sniffed(path, stream)
    return name or "text", bool(name)


def _json(path: Path, stream: io.BufferedReader) -> tuple[str, bool]:
    """Which JSON; a file whose first line is a whole value is read by lines, so that a bad one spoils no other."""
    line = _first_line(stream)
    if line[:1] == b"[":
        return "a JSON array", False
    return ("JSON objects" if line[:1] == b"{" and not isinstance(_value(line), dict) else "JSON lines"), False


def _sniffed(path: Path, stream: io.BufferedReader) -> str:
    """The kind of JSON that a file of any name holds if its first value is an object with fields, else nothing."""
    line = _first_line(stream)
    if line[:1] == b"{" and _value(line):
        return "JSON lines"
    if line[:1] not in (b"{", b"["):
        return ""
    with files.opened(path) as content:
        try:
            _, _, value = next(objects.values(content.stream, path), (0, 0, None))
        except InputError:
            return ""
    if not value or not isinstance(value, dict):
        return ""
    return "a JSON array" if line[:1] == b"[" else "JSON objects"


def _first_line(stream: io.BufferedReader) -> bytes:
    """The first line that is not empty, less the spaces around it; of a line that starts no object only the start."""
    start = b""
    while not start:
        block = stream.read(1 << 12)
        if not block:
            return b""
        start = block.removeprefix(codecs.BOM_UTF8).lstrip()
    line, newline, _ = start.partition(b"\n")
    return (line if newline or start[:1] != b"{" else line + stream.readline()).rstrip()


def _value(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


CHOICES: dict[str, Callable[[Path, io.BufferedReader], tuple[str, bool]]] = {
    "auto": _auto,
    "text": lambda path, stream: ("text", False),
    "json": lambda path, stream: (_json(path, stream)[0], False),
    "tsv": lambda path, stream: ("tsv", False),
    "csv": lambda path, stream: ("csv", False),
}
