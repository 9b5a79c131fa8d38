"""Readers of JSON and tables: one field of a record holds the text, another may group records into documents.

In tab-separated files a quote is an ordinary character, because common data sets (GLUE's, SemEval's, Tatoeba's) open
quotes in one column and close them in the next or never. Comma-separated files follow RFC 4180.
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
# Values of the text field (text, unless `Selection.types` allows other types) and of the group field, and the place in
# the file: the number of a line, or words.
Record = tuple[Any, object, int | str]
EMPTY: tuple[Record, ...] = ((None, None, 0),)
# Limited, because cleaning holds several copies of a document in memory.
MAX_DOCUMENT_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """The fields to read from a file of records, and how to treat bad rows: those without text.

    Attributes:
      path: the file, for messages.
      field: the field or column of the text; a column by its name in the first line, or by its number from 0 in a table
        without names.
      group: the field or column whose value the records of one document share; empty: each record is a document.
      skipped: the report that counts bad rows; None: the first one raises InputError.
      instead: the replacement for a bad row: nothing, or `EMPTY` so that record i stays record i.
      types, expected: accepted types of the values, and the name of these types in messages.
      words: accept a list of words too, each text.
    """

    path: Path
    field: str
    group: str = ""
    skipped: reports.Report | None = None
    instead: tuple[Record, ...] = ()
    types: tuple[type, ...] = (bytes, str)
    expected: str = "text"
    words: bool = False


def whole(value: Any) -> Any:
    """Return a text; one space joins the words of a list."""
    if not isinstance(value, list):
        return value
    return b" ".join(value) if value and isinstance(value[0], bytes) else " ".join(value)


def reject(selection: Selection, reason: str, size: int, message: str) -> tuple[Record, ...]:
    """Count a bad row of `size` bytes and return its replacement, or raise InputError."""
    if selection.skipped is None:
        raise InputError(f"{message}; config.data.bad_rows=skip leaves out such rows and counts them")
    reports.count(selection.skipped, "read", size)
    reports.count(selection.skipped, "dropped", size, f"bad row ({reason})")
    return selection.instead


def joined(records: Iterator[Record], selection: Selection) -> Iterator[tuple[Any, int | str]]:
    """Yield the texts and their places; line breaks join texts of neighbouring records of one group."""
    if not selection.group:
        yield from ((text, place) for text, _, place in records)
        return
    group: list[Text] = []
    last, size, first = None, 0, 0
    for text, key, place in records:
        if group and key != last:
            yield _join(group), first
            group, size = [], 0
        if not group:
            first = place
        group.append(text)
        last, size = key, size + len(text)
        if size > MAX_DOCUMENT_BYTES:
            raise InputError(
                f"{selection.path}: the group {key!r} is one document of more than {MAX_DOCUMENT_BYTES >> 30} GiB; "
                "choose a finer config.data.group"
            )
    if group:
        yield _join(group), first


def _join(texts: list[Text]) -> Text:
    newline = "\n" if isinstance(texts[0], str) else b"\n"
    return newline.join(texts)  # type: ignore[arg-type]


def json_lines(stream: io.BufferedReader, selection: Selection) -> Iterator[Record]:
    """Read JSON objects, one per line."""
    for number, line in enumerate(stream, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            message = (
                f"config.data.path: {selection.path} line {number} is not JSON ({error}); expected one object a line "
                "(config.data.format=json reads arrays and objects over several lines, text reads plain text)"
            )
            yield from reject(selection, "not JSON", len(line), message)
            continue
        yield from record_of(value, f"line {number}", len(line), selection)


def json_values(stream: io.BufferedReader, selection: Selection) -> Iterator[Record]:
    """Read JSON objects in an array or in sequence."""
    for number, (line, size, value) in enumerate(objects.values(stream, selection.path), 1):
        yield from record_of(value, f"line {line}, record {number}", size, selection)


def record_of(record: Any, place: str, size: int, selection: Selection) -> tuple[Record, ...]:
    """Return the text and group of a JSON record, or the replacement for a bad one."""
    where = f"{selection.path} {place}"
    if not isinstance(record, dict):
        message = (
            f"config.data.path: {where} is {_kind(record)}; expected an object (config.data.format=json "
            "reads a file that is one array of objects, text reads plain text)"
        )
        return reject(selection, "no object", size, message)
    for name, key in ((selection.field, "field"), (selection.group, "group")):
        if name not in record and (name or key == "field"):
            message = (
                f"{where} has no field {name!r}; it has {_names(record)}: set config.data.{key}, or "
                "config.data.format=text to read the file as plain text"
            )
            return reject(selection, f"no field {name!r}", size, message)
    return checked(record, f"{where}: field {selection.field!r}", place, size, selection)


def checked(record: Mapping[str, Any], name: str, place: str, size: int, selection: Selection) -> tuple[Record, ...]:
    """Return the value and group of a record, or the replacement for a bad value; `name` is for messages."""
    value = record[selection.field]
    words = selection.words and isinstance(value, list) and all(isinstance(word, (bytes, str)) for word in value)
    if words or isinstance(value, selection.types):
        return ((value, record[selection.group] if selection.group else None, place),)
    expected = selection.expected + " or a list of words" * selection.words
    message = f"{name} is {_kind(value)}; expected {expected} (config.data.field)"
    return reject(selection, f"{selection.field!r} is {_kind(value)}", size, message)


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def _names(record: dict[str, Any]) -> str:
    names = [repr(name[:24] + "..." * (len(name) > 24)) for name in record]
    return ", ".join(names[:12]) + ", ..." * (len(names) > 12) or "none"


def tabs(stream: io.BufferedReader, selection: Selection) -> Iterator[Record]:
    """Read the rows of a tab-separated table."""
    return _columns(_tabs(stream), selection, "\t")


def commas(stream: io.BufferedReader, selection: Selection) -> Iterator[Record]:
    """Read the rows of a comma-separated table."""
    return _columns(_commas(stream, selection), selection, ",")


def _tabs(stream: io.BufferedReader) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the line number and fields of each line that is not empty."""
    for number, line in enumerate(stream, 1):
        line = line.rstrip(b"\r\n")
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line:
            yield number, line.split(b"\t")


def _commas(stream: io.BufferedReader, selection: Selection) -> Iterator[tuple[int, list[bytes]]]:
    text = (
        line.decode("utf-8-sig" if number == 0 else "utf-8", "surrogateescape") for number, line in enumerate(stream)
    )
    # Python's own limit is 128 KiB a field; a document may be longer.
    csv.field_size_limit(MAX_DOCUMENT_BYTES)
    reader = csv.reader(text, strict=True)
    while True:
        # A quoted field may hold line breaks: messages name a row by its first line.
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            where = f"config.data.path: {selection.path} line {number}"
            if "unexpected end of data" in str(error):
                # An error even if bad rows are skipped: the quoted field has taken in the rest of the file.
                raise InputError(f"{where} opens a quote that is never closed; close it") from error
            message = f"{where} is not a row of a table ({error}); quotes inside a quoted field are doubled"
            for _ in reject(selection, "not a row of a table", 0, message):
                yield number, []
            continue
        if row:
            yield number, [field.encode("utf-8", "surrogateescape") for field in row]


def _columns(rows: Iterator[tuple[int, list[bytes]]], selection: Selection, delimiter: str) -> Iterator[Record]:
    first = next((row for row in rows if row[1]), None)
    if first is None:
        return
    header_line, header = first
    text = _column(header, selection, header_line, selection.field, "field", delimiter)
    group = _column(header, selection, header_line, selection.group, "group", delimiter) if selection.group else None
    if _is_number(selection.field):
        # Columns have numbers, so the first line is a row.
        yield header[text], None if group is None else header[group], header_line
    for number, row in rows:
        if len(row) == len(header):
            yield row[text], None if group is None else row[group], number
            continue
        if not row:
            yield from selection.instead
            continue
        message = (
            f"config.data.path: {selection.path} line {number} has {_counted(row)}, but line {header_line} has "
            f"{len(header)}: {_quoted(header)}"
        )
        yield from reject(selection, f"not {_counted(header)}", sum(map(len, row)) + len(row), message)


def _column(header: list[bytes], selection: Selection, line: int, name: str, key: str, delimiter: str) -> int:
    where = f"{selection.path} line {line}"
    if _is_number(name):
        if int(name) >= len(header):
            raise InputError(
                f"{where} has {_counted(header)} and no column {name}, counted from 0: set config.data.{key}"
                f"{_hint(header, delimiter)}"
            )
        return int(name)
    if name.encode() not in header:
        raise InputError(
            f"{where} has no column {name!r}; it has {_quoted(header)}: set config.data.{key} to one of "
            f"these, or to a column's number from 0 if the first line is not a header{_hint(header, delimiter)}"
        )
    return header.index(name.encode())


def _hint(header: list[bytes], delimiter: str) -> str:
    """Return advice if a table seems to have a delimiter other than that of its format."""
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


def _quoted(header: list[bytes]) -> str:
    names = [field.decode("utf-8", "replace") for field in header]
    names = [io.StringIO(name[:24]).readline() + "..." * (len(name) > 24) for name in names]
    return ", ".join(map(repr, names[:12])) + ", ..." * (len(names) > 12)
