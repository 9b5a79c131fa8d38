"""Files of records, JSON lines and tables: one field of a record is text, another says which belong together.

Tab-separated files are read as they are found: a quote is a quote, because those of the field (GLUE's, SemEval's,
Tatoeba's) open quotations in one column and close them in the next or never. Comma-separated ones follow RFC 4180.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from lm_jax.core.config import InputError

Text = bytes | str
# A document is held in memory several times over while it is cleaned.
MAX_DOCUMENT_BYTES = 1 << 30


def json_lines(lines: Iterable[bytes], path: Path, field: str, group: str) -> Iterator[Text]:
    """The text of every JSON object, or of every run of objects whose `group` is equal."""
    return joined(_json_lines(lines, path, field, group), path, bool(group))


def table(lines: Iterable[bytes], path: Path, field: str, group: str) -> Iterator[Text]:
    """The text of every row of a table, or of every run of rows whose `group` is equal.

    Args:
      lines: the file; UTF-8.
      path: for messages, and to tell .csv from .tsv.
      field: the column that holds the text: a name of the first line, or, of a table without one, a number from 0.
      group: likewise, or empty.

    Raises:
      InputError: a column that is not there, or a row of another width.
    """
    rows = _commas(lines, path) if ".csv" in path.suffixes[-2:] else _tabs(lines)
    return joined(_columns(rows, path, field, group), path, bool(group))


def joined(records: Iterator[tuple[Text, object]], path: Path, grouped: bool) -> Iterator[Text]:
    """The texts; those of neighbours of one group joined by line breaks."""
    if not grouped:
        yield from (text for text, _ in records)
        return
    held: list[Text] = []
    last, size = None, 0
    for text, key in records:
        if held and key != last:
            yield _join(held)
            held, size = [], 0
        held.append(text)
        last, size = key, size + len(text)
        if size > MAX_DOCUMENT_BYTES:
            raise InputError(
                f"{path}: the group {key!r} is one document of more than {MAX_DOCUMENT_BYTES >> 30} GiB; choose a "
                "finer config.data.group"
            )
    if held:
        yield _join(held)


def _join(texts: list[Text]) -> Text:
    newline = "\n" if isinstance(texts[0], str) else b"\n"
    return newline.join(texts)  # type: ignore[arg-type]


def _json_lines(lines: Iterable[bytes], path: Path, field: str, group: str) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(lines, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"config.data.path: {path} line {number} is not JSON ({error}); expected one object a line"
            ) from error
        if not isinstance(record, dict):
            raise InputError(f"config.data.path: {path} line {number} is a {type(record).__name__}; expected an object")
        for wanted, key in ((field, "field"), (group, "group")):
            if wanted not in record and (wanted or key == "field"):
                raise InputError(
                    f"{path} line {number} has no field {wanted!r}; it has {', '.join(map(repr, record)) or 'none'}: "
                    f"set config.data.{key}"
                )
        if not isinstance(record[field], str):
            raise InputError(
                f"{path} line {number}: field {field!r} is a {type(record[field]).__name__}; expected text "
                "(config.data.field)"
            )
        yield record[field], record[group] if group else None


def _tabs(lines: Iterable[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Line numbers and fields; empty lines are none."""
    for number, line in enumerate(lines, 1):
        line = line.rstrip(b"\r\n")
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line:
            yield number, line.split(b"\t")


def _commas(lines: Iterable[bytes], path: Path) -> Iterator[tuple[int, list[bytes]]]:
    text = (
        line.decode("utf-8-sig" if number == 0 else "utf-8", "surrogateescape") for number, line in enumerate(lines)
    )
    first = next(text, "")
    # Python's own limit is 128 KiB a field; a document may be longer.
    csv.field_size_limit(MAX_DOCUMENT_BYTES)
    reader = csv.reader(_chain(first, text), delimiter="\t" if "\t" in first else ",", strict=True)
    while True:
        # A quoted field may hold line breaks: a row is named by its first line.
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(
                f"config.data.path: {path} line {number} is not a row of a table ({error}); quotes inside a quoted "
                "field are doubled"
            ) from error
        if row:
            yield number, [field.encode("utf-8", "surrogateescape") for field in row]


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from rest


def _columns(
    rows: Iterator[tuple[int, list[bytes]]], path: Path, field: str, group: str
) -> Iterator[tuple[bytes, object]]:
    first = next(rows, None)
    if first is None:
        return
    number, header = first
    text, key = (_column(header, path, number, name, of) for name, of in ((field, "field"), (group, "group")))
    assert text is not None
    if _is_number(field):
        yield header[text], None if key is None else header[key]
    for number, row in rows:
        if len(row) != len(header):
            raise InputError(
                f"config.data.path: {path} line {number} has {_counted(row)}, but line {first[0]} has {len(header)}: "
                f"{_shown(header)}"
            )
        yield row[text], None if key is None else row[key]


def _column(header: list[bytes], path: Path, line: int, name: str, key: str) -> int | None:
    """The position of a column, by name or by number."""
    if key == "group" and not name:
        return None
    if _is_number(name):
        if int(name) >= len(header):
            raise InputError(
                f"{path} line {line} has {_counted(header)}, none of them column {name} counted from 0: "
                f"set config.data.{key}"
            )
        return int(name)
    if name.encode() not in header:
        raise InputError(
            f"{path} line {line} has no column {name!r}; it has {_shown(header)}: set config.data.{key} to one of "
            "these, or to a column's number from 0 where the first line is no header"
        )
    return header.index(name.encode())


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _counted(row: list[bytes]) -> str:
    return f"{len(row)} column{'s' * (len(row) != 1)}"


def _shown(header: list[bytes]) -> str:
    names = [field.decode("utf-8", "replace") for field in header]
    names = [io.StringIO(name[:24]).readline() + "..." * (len(name) > 24) for name in names]
    return ", ".join(map(repr, names[:12])) + ", ..." * (len(names) > 12)
