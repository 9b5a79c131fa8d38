"""Files of records, JSON and tables: one field of a record is text, another says which belong together.

Tab-separated files are read as they are found: a quote is a quote, because those of the field (GLUE's, SemEval's,
Tatoeba's) open quotations in one column and close them in the next or never. Comma-separated ones follow RFC 4180.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lm_jax.core.config import InputError
from lm_jax.data import objects
from lm_jax.data.clean import report as reports

Text = bytes | str
# A value and that of its group; the value is text unless `Wanted.types` says otherwise.
Record = tuple[Any, object]
EMPTY: tuple[Record, ...] = ((None, None),)
# A document is held in memory several times over while it is cleaned.
MAX_DOCUMENT_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to read of a file of records.

    Attributes:
      path: of the file, for messages.
      field: what holds the text: a field, or a column by its name in the first line or, of a table without one, by its
        number from 0.
      group: the field or column whose value neighbours of one document share; empty where each record is a document.
      skipped: where rows that hold no text are counted; None raises InputError at the first.
      instead: what stands for such a row: nothing, or `EMPTY` where record i of a file is record i of another.
      types, expected: of the values that are read, and what a message calls them.
    """

    path: Path
    field: str
    group: str = ""
    skipped: reports.Report | None = None
    instead: tuple[Record, ...] = ()
    types: tuple[type, ...] = (bytes, str)
    expected: str = "text"


def reject(wanted: Wanted, reason: str, size: int, message: str) -> tuple[Record, ...]:
    """Count a row of `size` bytes that holds no text and give what stands for it, or raise InputError."""
    if wanted.skipped is None:
        raise InputError(f"{message}; config.data.bad_rows=skip leaves out such rows and counts them")
    reports.count(wanted.skipped, "read", size)
    reports.count(wanted.skipped, "dropped", size, f"bad row ({reason})")
    return wanted.instead


def joined(records: Iterator[Record], wanted: Wanted) -> Iterator[Text]:
    """The texts; those of neighbours of one group joined by line breaks."""
    if not wanted.group:
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
                f"{wanted.path}: the group {key!r} is one document of more than {MAX_DOCUMENT_BYTES >> 30} GiB; choose "
                "a finer config.data.group"
            )
    if held:
        yield _join(held)


def _join(texts: list[Text]) -> Text:
    newline = "\n" if isinstance(texts[0], str) else b"\n"
    return newline.join(texts)  # type: ignore[arg-type]


def json_lines(stream: io.BufferedReader, wanted: Wanted) -> Iterator[Record]:
    """JSON objects, one a line."""
    for number, line in enumerate(stream, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            message = (
                f"config.data.path: {wanted.path} line {number} is not JSON ({error}); expected one object a line "
                "(config.data.format=json reads arrays and objects over several lines, text reads plain text)"
            )
            yield from reject(wanted, "not JSON", len(line), message)
            continue
        yield from _record(record, f"line {number}", len(line), wanted)


def json_values(stream: io.BufferedReader, wanted: Wanted) -> Iterator[Record]:
    """JSON objects that lie in an array or follow one another."""
    for number, (line, size, record) in enumerate(objects.values(stream, wanted.path), 1):
        yield from _record(record, f"line {line}, record {number}", size, wanted)


def _record(record: Any, place: str, size: int, wanted: Wanted) -> tuple[Record, ...]:
    """The text of a JSON value and its group, or what stands for it where it was rejected."""
    where = f"{wanted.path} {place}"
    if not isinstance(record, dict):
        message = (
            f"config.data.path: {where} is {_kind(record)}; expected an object (config.data.format=json "
            "reads a file that is one array of objects, text reads plain text)"
        )
        return reject(wanted, "no object", size, message)
    for name, key in ((wanted.field, "field"), (wanted.group, "group")):
        if name not in record and (name or key == "field"):
            message = (
                f"{where} has no field {name!r}; it has {_names(record)}: set config.data.{key}, or "
                "config.data.format=text to read the file as plain text"
            )
            return reject(wanted, f"no field {name!r}", size, message)
    return checked(record, f"{where}: field {wanted.field!r}", size, wanted)


def checked(record: Mapping[str, Any], name: str, size: int, wanted: Wanted) -> tuple[Record, ...]:
    """The value of a record, which messages call `name`, and its group, or what stands for one of another type."""
    value = record[wanted.field]
    if isinstance(value, wanted.types):
        return ((value, record[wanted.group] if wanted.group else None),)
    message = f"{name} is {_kind(value)}; expected {wanted.expected} (config.data.field)"
    return reject(wanted, f"{wanted.field!r} is {_kind(value)}", size, message)


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def _names(record: dict[str, Any]) -> str:
    shown = [repr(name[:24] + "..." * (len(name) > 24)) for name in record]
    return ", ".join(shown[:12]) + ", ..." * (len(shown) > 12) or "none"


def tabs(stream: io.BufferedReader, wanted: Wanted) -> Iterator[Record]:
    """Rows of a tab-separated table."""
    return _columns(_tabs(stream), wanted, "\t")


def commas(stream: io.BufferedReader, wanted: Wanted) -> Iterator[Record]:
    """Rows of a comma-separated table."""
    return _columns(_commas(stream, wanted), wanted, ",")


def _tabs(stream: io.BufferedReader) -> Iterator[tuple[int, list[bytes]]]:
    """Line numbers and fields; empty lines are none."""
    for number, line in enumerate(stream, 1):
        line = line.rstrip(b"\r\n")
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line:
            yield number, line.split(b"\t")


def _commas(stream: io.BufferedReader, wanted: Wanted) -> Iterator[tuple[int, list[bytes]]]:
    text = (
        line.decode("utf-8-sig" if number == 0 else "utf-8", "surrogateescape") for number, line in enumerate(stream)
    )
    # Python's own limit is 128 KiB a field; a document may be longer.
    csv.field_size_limit(MAX_DOCUMENT_BYTES)
    reader = csv.reader(text, strict=True)
    while True:
        # A quoted field may hold line breaks: a row is named by its first line.
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            where = f"config.data.path: {wanted.path} line {number}"
            if "unexpected end of data" in str(error):
                # Not one bad row: all that follows has been taken for the inside of the quotes.
                raise InputError(f"{where} opens a quote that is never closed; close it") from error
            message = f"{where} is not a row of a table ({error}); quotes inside a quoted field are doubled"
            for _ in reject(wanted, "not a row of a table", 0, message):
                yield number, []
            continue
        if row:
            yield number, [field.encode("utf-8", "surrogateescape") for field in row]


def _columns(rows: Iterator[tuple[int, list[bytes]]], wanted: Wanted, delimiter: str) -> Iterator[Record]:
    first = next((row for row in rows if row[1]), None)
    if first is None:
        return
    start, header = first
    text = _column(header, wanted, start, wanted.field, "field", delimiter)
    key = _column(header, wanted, start, wanted.group, "group", delimiter) if wanted.group else None
    if _is_number(wanted.field):
        yield header[text], None if key is None else header[key]
    for number, row in rows:
        if len(row) == len(header):
            yield row[text], None if key is None else row[key]
            continue
        if not row:
            yield from wanted.instead
            continue
        message = (
            f"config.data.path: {wanted.path} line {number} has {_counted(row)}, but line {start} has {len(header)}: "
            f"{_shown(header)}"
        )
        yield from reject(wanted, f"not {_counted(header)}", sum(map(len, row)) + len(row), message)


def _column(header: list[bytes], wanted: Wanted, line: int, name: str, key: str, delimiter: str) -> int:
    """The position of a column, by name or by number."""
    where = f"{wanted.path} line {line}"
    if _is_number(name):
        if int(name) >= len(header):
            raise InputError(
                f"{where} has {_counted(header)}, none of them column {name} counted from 0: set config.data.{key}"
                f"{_hint(header, delimiter)}"
            )
        return int(name)
    if name.encode() not in header:
        raise InputError(
            f"{where} has no column {name!r}; it has {_shown(header)}: set config.data.{key} to one of "
            f"these, or to a column's number from 0 where the first line is no header{_hint(header, delimiter)}"
        )
    return header.index(name.encode())


def _hint(header: list[bytes], delimiter: str) -> str:
    """What to do about a table whose delimiter seems to be another one than that of its name."""
    counts = {other: sum(field.count(other.encode()) for field in header) for other in "\t,;" if other != delimiter}
    other = max(counts, key=lambda each: counts[each])
    if len(header) > 1 or not counts[other]:
        return ""
    return {
        "\t": "; the line seems to be separated by tabs: set config.data.format=tsv",
        ",": "; the line seems to be separated by commas: set config.data.format=csv",
        ";": "; the line seems to be separated by semicolons, which are not read: save the table with tabs and set "
        "config.data.format=tsv",
    }[other]


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _counted(row: list[bytes]) -> str:
    return f"{len(row)} column{'s' * (len(row) != 1)}"


def _shown(header: list[bytes]) -> str:
    names = [field.decode("utf-8", "replace") for field in header]
    names = [io.StringIO(name[:24]).readline() + "..." * (len(name) > 24) for name in names]
    return ", ".join(map(repr, names[:12])) + ", ..." * (len(names) > 12)
