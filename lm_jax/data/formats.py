"""The format of a file (plain text, JSON, a table, ...), by its name or, if that does not decide, by its content."""

from __future__ import annotations

import codecs
import dataclasses
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from lm_jax.core.config import InputError, lookup
from lm_jax.data import annotated, files, objects, records
from lm_jax.data.records import Record, Selection

KEY = "config.data.format"
# Formats of records; files of any other format are plain text.
READERS: dict[str, Callable[[io.BufferedReader, Selection], Iterator[Record]]] = {
    "JSON lines": records.json_lines,
    "JSON objects": records.json_values,
    "a JSON array": records.json_values,
    "tsv": records.tabs,
    "csv": records.commas,
    "squad": annotated.squad,
    "conll": annotated.conll,
    "labelled": annotated.labelled,
}
# Bytes that decide whether a file is SQuAD's JSON.
_START = 1 << 16
_JSON_LINES = (".jsonl", ".ndjson", ".jsonlines")
_SUFFIXES = {**dict.fromkeys(_JSON_LINES, "JSON lines"), ".tsv": "tsv", ".csv": "csv"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """The format of a file: its `name` is "text" or a key of `READERS`; see `files.Content` for the last two fields.

    `guessed` is true if the content decided, not the name of the file or the setting.
    """

    name: str
    guessed: bool
    compressions: tuple[str, ...]
    encoding: str

    @property
    def has_fields(self) -> bool:
        """Whether the file holds records."""
        return self.name in READERS


def identify(path: Path, choice: str) -> Format:
    """Return the format of a file; `choice` is a key of `CHOICES`.

    Raises:
      InputError: the choice is unknown, or the file is damaged or not text.
    """
    decide = lookup(CHOICES, choice, KEY)
    with files.opened(path) as content:
        name, guessed = decide(path, content.stream)
        return Format(name=name, guessed=guessed, compressions=content.compressions, encoding=content.encoding)


def note(path: Path, form: Format) -> str:
    """Return a description of the format for the user, such as "JSON lines", if the content decided; else ""."""
    # Any compression suffix is enough: it need not be that of the actual compression.
    unnamed = form.compressions if files.kind(path) == path.suffix.lower() else ()
    if not form.guessed and not unnamed:
        return ""
    return f"{form.name if form.has_fields else 'plain text'}{''.join(f', {name}' for name in unnamed)}"


def _auto(path: Path, stream: io.BufferedReader) -> tuple[str, bool]:
    suffix = files.kind(path)
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix], False
    if stream.peek(64).removeprefix(codecs.BOM_UTF8).lstrip()[:1] in (b"{", b"") and _is_squad(path):
        return "squad", True
    if suffix == ".json":
        return _json(stream), True
    name = _sniffed(path, stream)
    return name or "text", bool(name)


def _is_squad(path: Path) -> bool:
    with files.opened(path) as content:
        return annotated.is_squad(content.stream.read(_START))


def _json(stream: io.BufferedReader) -> str:
    """Return the kind of JSON; JSON lines if the first line is complete, so that a bad line does not affect others."""
    line = _first_line(stream)
    if line[:1] == b"[":
        return "a JSON array"
    return "JSON objects" if line[:1] == b"{" and not isinstance(_value(line), dict) else "JSON lines"


def _sniffed(path: Path, stream: io.BufferedReader) -> str:
    """Return the kind of JSON if the first value of a file is an object with fields, else ""."""
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
    kind = "a JSON array" if line[:1] == b"[" else "JSON objects"
    return kind if value and isinstance(value, dict) else ""


def _first_line(stream: io.BufferedReader) -> bytes:
    """Return the first non-empty line, stripped; perhaps only the start of a line that does not begin with {."""
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
    "json": lambda path, stream: (_json(stream), False),
    "tsv": lambda path, stream: ("tsv", False),
    "csv": lambda path, stream: ("csv", False),
    "squad": lambda path, stream: ("squad", False),
    "conll": lambda path, stream: ("conll", False),
    "labelled": lambda path, stream: ("labelled", False),
}
