"""Readers of annotated text: words with tags in columns (CoNLL), questions about passages (SQuAD), and labelled lines.

CoNLL: Tjong Kim Sang and De Meulder 2003, section 3; CoNLL-U: universaldependencies.org/format.html. SQuAD: Rajpurkar
et al. 2016 and 2018 (versions 1.1 and 2.0). Labelled lines: fastText's `__label__X text`, and TREC's `X text`.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from lm_jax.core.config import InputError
from lm_jax.data import objects, records
from lm_jax.data.records import Record, Selection

PREFIX = b"__label__"
_COLUMN = re.compile("-?[0-9]+")
# The first of CoNLL-U's columns: the number of a word, a token of several words, or a word that the text omits.
_NUMBER_U = re.compile(rb"[0-9]+([-.][0-9]+)?")
_NO_WORD_U = re.compile(rb"[0-9]+[-.][0-9]+")
_COLUMNS_U = 10
_DECODER = json.JSONDecoder()


class Row(NamedTuple):
    """A line of a sentence: its number, and its columns."""

    line: int
    columns: list[bytes]


def conll(stream: io.BufferedReader, selection: Selection) -> Iterator[Record]:
    """Read sentences of one word a line; a field is the number of a column, from 0, or from -1 for the last.

    Empty lines and `-DOCSTART-` separate sentences. A sentence is bad if a row has fewer columns than the first row of
    the file, or another number than the rest of its sentence. Of CoNLL-U, comments, tokens of several words (`1-2`) and
    words that the text omits (`8.1`) are ignored.
    """
    if not _COLUMN.fullmatch(selection.field) or selection.group:
        key, value = ("group", selection.group) if selection.group else ("field", selection.field)
        expected = "no group" if selection.group else "the number of a column: 0, 1, ..., or -1 for the last"
        raise InputError(f"{selection.path}: config.data.{key} is {value!r}; the format conll expects {expected}")
    column, as_list = int(selection.field), selection.words or list in selection.types
    first = Row(0, [])
    for lines in _sentences(stream):
        rows = _rows(lines, len(first.columns))
        if not first.line:
            first = rows[0]
            if not -len(first.columns) <= column < len(first.columns):
                raise InputError(
                    f"{selection.path} line {first.line} has {_counted(first)} and no column {column}: set "
                    f"config.data.field to 0..{len(first.columns) - 1}, or to -1 for the last"
                )
        odd = _odd(rows, first)
        if odd is None:
            words = [row.columns[column] for row in rows]
            yield words if as_list else records.whole(words), None, rows[0].line
            continue
        row, like = odd
        message = (
            f"config.data.path: {selection.path} line {row.line} has {_counted(row)}, but line {like.line} has "
            f"{len(like.columns)}; expected a word and its tags on each line, and an empty line after each sentence"
        )
        size = sum(len(line) + 1 for _, line in lines)
        yield from records.reject(selection, f"not {_counted(like)}", size, message)


def _odd(rows: list[Row], first: Row) -> tuple[Row, Row] | None:
    """Return a bad row of a sentence and the row that it should be like, if any."""
    for row in rows:
        if len(row.columns) < len(first.columns):
            return row, first
        # More than in `first` are allowed: in some files the columns depend on the predicates of the sentence.
        if len(row.columns) != len(rows[0].columns):
            return row, rows[0]
    return None


def _counted(row: Row) -> str:
    return f"{len(row.columns)} column{'s' * (len(row.columns) != 1)}"


def _sentences(stream: io.BufferedReader) -> Iterator[list[tuple[int, bytes]]]:
    """Yield the numbered lines of each sentence."""
    lines: list[tuple[int, bytes]] = []
    for number, line in enumerate(stream, 1):
        line = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).rstrip(b"\r\n")
        if line.strip() and not line.startswith(b"-DOCSTART-"):
            lines.append((number, line))
            continue
        if lines:
            yield lines
        lines = []
    if lines:
        yield lines


def _rows(lines: list[tuple[int, bytes]], count: int) -> list[Row]:
    """Return the rows of a sentence; `count` is the number of columns of the file, 0 in its first sentence."""
    words = [(number, line) for number, line in lines if not line.startswith(b"#")]
    columns = words[0][1].split(b"\t") if words else []
    if len(columns) == _COLUMNS_U and _NUMBER_U.fullmatch(columns[0]):
        # Words of CoNLL-U may hold spaces. In other files, a line that starts with # is a word.
        rows = [Row(number, [value.strip() for value in line.split(b"\t")]) for number, line in words]
        return [row for row in rows if not _NO_WORD_U.fullmatch(row.columns[0])] or rows
    rows, count = [], count or len(lines[0][1].split())
    for number, line in lines:
        columns = line.split()
        if len(columns) == count - 1 and line[:2].isspace():
            # The word is a space.
            columns = [line[:1], *columns]
        rows.append(Row(number, columns))
    return rows


def labelled(stream: io.BufferedReader, selection: Selection) -> Iterator[Record]:
    """Read lines of a label, white space and a text, as the fields `label` and `text`.

    Several labels with the prefix `__label__` are a list.
    """
    for number, line in enumerate(stream, 1):
        rest = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip()
        if not rest:
            continue
        labels: list[bytes] = []
        while rest and (not labels or (labels[0].startswith(PREFIX) and rest.startswith(PREFIX))):
            label, *after = rest.split(None, 1)
            labels.append(label)
            rest = after[0] if after else b""
        labels = [label.removeprefix(PREFIX) for label in labels]
        if not rest or not all(labels):
            shown = line[:60].decode("utf-8", "replace").strip()
            message = (
                f"config.data.path: {selection.path} line {number} is {shown!r}; expected a label, white space and a "
                "text"
            )
            yield from records.reject(selection, "no label and text", len(line), message)
            continue
        record = {"label": labels if len(labels) > 1 else labels[0], "text": rest}
        yield from records.record_of(record, f"line {number}", len(line), selection)


def squad(stream: io.BufferedReader, selection: Selection) -> Iterator[Record]:
    """Read the questions of SQuAD's JSON as records of `id`, `question`, `context`, `title` and `answers`.

    `answers` is a list of [start, end, "answer"], in characters of the context, each once; empty if the question is
    marked as impossible.
    """
    for line, _, document in objects.values(stream, selection.path):
        where = f"{selection.path} line {line}"
        for article in _entries(document, "data", where):
            for paragraph in _entries(article, "paragraphs", where):
                for question in _entries(paragraph, "qas", where):
                    record, place = _question(question, paragraph, article, line)
                    yield from _answered(record, place, selection)


def _entries(tree: Any, name: str, where: str) -> list[Any]:
    entries = tree.get(name) if isinstance(tree, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(
            f"config.data.path: {where} is not in SQuAD's format: expected an object with {name!r}, a list of objects "
            "(config.data.format=json reads other JSON)"
        )
    return entries


def _question(question: dict, paragraph: dict, article: dict, line: int) -> tuple[dict[str, Any], str]:
    """Return the record of a question, with the fields that it has, and its place."""
    sources = {"id": question, "question": question, "context": paragraph, "title": article}
    record = {name: source[name] for name, source in sources.items() if name in source}
    record.setdefault("title", "")
    if isinstance(record.get("id"), int):
        record["id"] = str(record["id"])
    if question.get("is_impossible") is True:
        record["answers"] = []
    elif "answers" in question:
        record["answers"] = question["answers"]
    return record, f"id {record['id']!r}" if "id" in record else f"line {line}, a question without id"


def _answered(record: dict[str, Any], place: str, selection: Selection) -> tuple[Record, ...]:
    """Return a field of a question, answers as spans, or the replacement for a bad one."""
    if selection.field != "answers" or "answers" not in record:
        return records.record_of(record, place, 0, selection)
    spans, answers = [], record["answers"]
    for answer in answers if isinstance(answers, list) else [answers]:
        text, start = (answer.get("text"), answer.get("answer_start")) if isinstance(answer, dict) else (None, None)
        if not isinstance(text, str) or type(start) is not int:
            problem = f"is {answer!r:.60}; expected a list of objects with a text and its answer_start"
        elif not text or start < 0 or not str(record.get("context")).startswith(text, start):
            problem = f"has {text[:60]!r}, which is not at character {start} of the context"
        else:
            spans.append([start, start + len(text), "answer"])
            continue
        message = f"{selection.path} {place}: field 'answers' {problem}"
        return records.reject(selection, "answer not in its context", 0, message)
    unique = [list(span) for span in dict.fromkeys(map(tuple, spans))]
    return records.record_of({**record, "answers": unique}, place, 0, selection)


def is_squad(start: bytes) -> bool:
    """Whether the start of a file is that of SQuAD's JSON: an object with "data", objects with "paragraphs"."""
    text = start.decode("utf-8-sig", "ignore")
    articles = _after_key(text, 0, "data")
    return articles >= 0 and text[articles] == "[" and _after_key(text, articles + 1, "paragraphs") >= 0


def _after_key(text: str, at: int, name: str) -> int:
    """Return the position of the value of a key in the object at a position, or -1 if that is not certain."""
    try:
        at = _skip(text, at, "{")
        while True:
            key, at = _DECODER.raw_decode(text, at)
            at = _skip(text, at, ":")
            if key == name:
                return at
            _, at = _DECODER.raw_decode(text, at)
            at = _skip(text, at, ",")
    except (ValueError, IndexError, RecursionError):
        return -1


def _skip(text: str, at: int, character: str) -> int:
    """Return the position after white space, a character and white space; ValueError if there is another."""
    match = re.compile(rf"[ \t\r\n]*{re.escape(character)}[ \t\r\n]*").match(text, at)
    if match is None or match.end() == len(text):
        raise ValueError
    return match.end()
