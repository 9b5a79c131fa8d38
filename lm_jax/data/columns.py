"""Corpora of columns, whose records have several fields: texts, numbers, labels, and labelled spans of a text.

Entry i of every column belongs to record i. Each text column has a token store, in which a document that cleaning drops
stays as an empty document; the other columns are arrays. A record with an empty entry in any column gives no row.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import numbers
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError, Tree, build_entries, lookup, nearest, setting
from lm_jax.data import atomic, originals, records, sources, texts, tokenizers
from lm_jax.data.clean import chain, steps
from lm_jax.data.clean import report as reports
from lm_jax.data.originals import Located, Originals
from lm_jax.data.several import Several, naming
from lm_jax.data.sources import SourceConfig
from lm_jax.data.store import Store

KEY = "config.data.columns"
# Increment it when the same entries would be stored differently.
VERSION = 1
# The same for spans. Since version 2, white space at their ends is left out, and cleaning may change the text inside.
SPANS_VERSION = 2
_INTEGER = re.compile("0|-?[1-9][0-9]*")
# Counts or rejects a bad entry, given its record number, its value and the problem.
Bad = Callable[[int, Any, str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColumnConfig:
    """A column.

    Attributes:
      kind: "text" (tokens), "number" (a float), "label" (the id of a name) or "spans" (JSON: a list of [start, end,
        name], offsets in characters of a text).
      field: the field of a JSON object or column of a table; empty: the name of the column.
      path: files of this column alone, their records in the order of the other columns; empty: `config.data.path`.
      document: the unit of plain text that is a record: "line" (empty lines too), "paragraph" or "file".
      of: the text column that spans refer to; empty: the only text column.
      names: the names of labels or spans in the order of their ids; empty: the names in the data, sorted.
    """

    kind: str = "text"
    field: str = ""
    path: str = setting("", local=True)
    document: str = "line"
    of: str = ""
    names: tuple[str, ...] = ()


def parse(tree: Tree) -> dict[str, ColumnConfig]:
    """Return the columns of a configuration by name, with `of` filled in for spans.

    Raises:
      InputError: an unknown kind, no text column, or spans of an unknown text column.
    """
    columns = build_entries(ColumnConfig, tree, KEY)
    text_names = [name for name, column in columns.items() if column.kind == "text"]
    for name, column in columns.items():
        lookup({"text": None, **KINDS}, column.kind, f"{KEY}.{name}.kind")
        expected = [""]
        if column.kind == "spans":
            expected, columns[name] = text_names, dataclasses.replace(column, of=column.of or " ".join(text_names))
        if columns[name].of not in expected:
            raise InputError(f"{KEY}.{name}.of is {column.of!r}; expected {' or '.join(map(repr, expected))}")
    if columns and not text_names:
        raise InputError(f"{KEY} names no text column; set the kind of one column to text")
    return columns


def locate(columns: Mapping[str, ColumnConfig], base: SourceConfig) -> dict[str, SourceConfig]:
    """Return the source of each column; columns that have no path are read from `base`.

    Raises:
      InputError: neither a column nor `base` has a path, or settings do not fit the files.
    """
    located = {}
    for name, column in columns.items():
        path = column.path or base.path
        if path == SourceConfig.path:
            raise InputError(f"{KEY}.{name} has no path; set {KEY}.{name}.path, or config.data.path for all columns")
        source = dataclasses.replace(base, path=path, document=column.document, group="")
        has_fields = naming(f"{KEY}.{name}", sources.has_fields)(source)
        field = column.field or (name if has_fields else SourceConfig.field)
        located[name] = dataclasses.replace(source, field=field)
        naming(f"{KEY}.{name}", sources.check)(located[name])
    return located


@dataclasses.dataclass(frozen=True)
class Columns(Several):
    """A corpus of columns.

    Attributes:
      config: the columns by name.
      stores: token stores of the text columns.
      values: the other columns: numbers [records, 1], label ids [records, 1], or spans [spans, 3]: the first token, the
        token after the last, and the id of the name.
      bounds: record r has the tokens or values bounds[r]..bounds[r + 1] - 1.
      names: names by id.
      rows: numbers of the records without an empty entry, ascending.
      entries: counts of read, kept and dropped entries of the other columns.
      fingerprint: hash of all columns.
      before: number of prefix ids at the start of every stored document.
      originals: the entries as the files have them, by column and record: texts, or spans in characters of their text.
      clean: the cleaning of the texts.
    """

    config: Mapping[str, ColumnConfig]
    stores: Mapping[str, Store]
    values: Mapping[str, np.ndarray]
    bounds: Mapping[str, Int[np.ndarray, " records_and_one"]]
    names: Mapping[str, Sequence[str]]
    rows: Int[np.ndarray, " rows"]
    entries: reports.Report
    fingerprint: str
    before: int
    originals: Mapping[str, Originals]
    clean: chain.CleanConfig

    @property
    def records(self) -> int:
        """Number of records, including those that give no row."""
        return len(next(iter(self.bounds.values()))) - 1

    @property
    def report(self) -> reports.Report:
        """Counts of read, kept, dropped and changed entries of all columns."""
        return reports.total([super().report, self.entries])

    def check(self, reads: Mapping[str, int]) -> None:
        """Raise InputError if a column of `reads` (see `rows.Reads.columns`) is missing or of another kind."""
        kinds = {name: column.kind for name, column in self.config.items()}
        for name, most in reads.items():
            # `most` is above 0 for text columns only.
            if name not in kinds or (kinds[name] == "text") != (most > 0):
                choices = ", ".join(f"{each} ({kind})" for each, kind in kinds.items())
                column = f"a column {name!r}{' of text' * (most > 0)}"
                raise InputError(f"the objective reads {column}; {KEY} has {choices}{nearest(name, kinds)}")

    def read(self, name: str, record: int, most: int, first: int = 0) -> np.ndarray | np.generic:
        """Read one entry: int32 tokens, a number, a label id or int32 spans [spans, 3].

        Texts give at most `most` tokens from token `first` on, without prefix and EOS; spans that end after `most`
        tokens are left out.
        """
        start, stop = self.bounds[name][record : record + 2].tolist()
        if name in self.stores:
            start += self.before + first
            return self.stores[name].read(start, min(start + most, stop - 1))
        values = self.values[name][start:stop]
        return values[values[:, 1] <= most] if self.config[name].of else values[0, 0]

    def sizes(self, name: str, records: Int[np.ndarray, " rows"], most: int) -> Int[np.ndarray, " rows"]:
        """Return the number of tokens of `read` for several records of a text column, without reading them."""
        bounds = self.bounds[name]
        # Without the prefix and EOS.
        return np.minimum(bounds[records + 1] - bounds[records] - self.before - 1, most)

    def located(self, name: str, record: int) -> Located:
        """Return the original text of a text column's entry, and where its tokens lie in it."""
        return originals.locate(self.originals[name][record], self.clean, self.tokenizer)


def join(
    root: Path,
    config: Mapping[str, ColumnConfig],
    base: SourceConfig,
    clean: chain.CleanConfig,
    stores: Mapping[str, Store],
    before: int,
) -> Columns:
    """Join the stores of the text columns with the other columns, which are read if they are not stored yet.

    Raises:
      InputError: the columns differ in their number of records, an entry is bad, or no record is complete.
    """
    located, others = locate(config, base), [name for name in config if name not in stores]
    contents = {name: sources.fingerprint(located[name]) for name in others}
    contents |= {name: store.fingerprint for name, store in stores.items()}
    entries = [[name, column.kind, column.of, column.names, contents[name]] for name, column in config.items()]
    described: list[Any] = ["columns", VERSION, entries]
    if any(config[name].of for name in others):
        described.append(SPANS_VERSION)
    fingerprint = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]
    directory = root / "columns" / fingerprint
    bounds = {name: np.append(store.document_starts, store.tokens) for name, store in stores.items()}
    with atomic.lock_unfinished(directory, "columns.json", lambda: None) as unfinished:
        if unfinished:
            report = reports.empty()
            bad = {name: functools.partial(_bad, name, located[name], report) for name in others}
            streams = {name: _entries(KINDS[config[name].kind], located[name], report, bad[name]) for name in others}
            columns = {name: naming(f"{KEY}.{name}", list)(stream) for name, stream in streams.items()}
            counts = {name: len(columns[name]) if name in columns else len(bounds[name]) - 1 for name in config}
            if len(set(counts.values())) > 1:
                totals = ", ".join(f"{name} {count:,}" for name, count in counts.items())
                raise InputError(f"{KEY} differ in their number of records; expected the same number in all: {totals}")
            for name, of in [(name, config[name].of) for name in others if config[name].of]:
                documents = _documents(root, located[of], clean, stores[of].tokenizer)
                columns[name] = naming(f"{KEY}.{name}", list)(_in_tokens(columns[name], documents, bad[name]))
            nonempty = [np.diff(starts) > before + 1 for starts in bounds.values()]
            _store(directory, config, columns, nonempty, report)
    values = {name: np.load(directory / f"{name}.npy") for name in others}
    bounds |= {name: np.load(directory / f"{name}.bounds.npy") for name in others}
    rows, manifest = np.load(directory / "rows.npy"), json.loads((directory / "columns.json").read_bytes())
    entries_of = {name: _originals(root, name, config[name], located[name], clean) for name in config}
    return Columns(
        *(config, stores, values, bounds),
        rows=rows,
        fingerprint=fingerprint,
        before=before,
        originals=entries_of,
        clean=clean,
        **manifest,
    )


def _originals(
    root: Path, name: str, column: ColumnConfig, source: SourceConfig, clean: chain.CleanConfig
) -> Originals:
    if column.kind == "text":
        return originals.texts(root, source, clean.encoding)
    report = reports.empty()
    bad = functools.partial(_bad, name, source, report)
    return Originals(root, source, functools.partial(_entries, KINDS[column.kind], source, report, bad), column.kind)


def _store(
    directory: Path,
    config: Mapping[str, ColumnConfig],
    columns: Mapping[str, list[Any]],
    nonempty: list[np.ndarray],
    report: reports.Report,
) -> None:
    """Write the columns that are not text, and the numbers of the records without an empty entry.

    `nonempty` is a mask of records with an entry for each text column; those of the other columns are appended.
    """
    names = {}
    for name, column in columns.items():
        nonempty.append(np.array([entry is not None for entry in column]))
        kind = KINDS[config[name].kind]
        flat = [item for entry in column for item in entry or ()]
        data_names = {item[-1] for item in flat if isinstance(item[-1], str)}
        names[name] = list(config[name].names) or _ordered(data_names)
        if unknown := _ordered(data_names - {*names[name]}):
            raise InputError(f"{KEY}.{name}.names is {config[name].names}, but the data has {unknown[0]!r} too; add it")
        ids = {each: number for number, each in enumerate(names[name])}
        values = [(*item[:-1], ids.get(item[-1], item[-1])) for item in flat]
        atomic.write_array(directory / f"{name}.npy", np.array(values, kind.dtype).reshape(-1, kind.width))
        atomic.write_array(directory / f"{name}.bounds.npy", np.cumsum([0, *(len(entry or ()) for entry in column)]))
        for group in ("read", "kept"):
            report[group]["documents"] += int(nonempty[-1].sum())
    rows = np.flatnonzero(np.logical_and.reduce(nonempty))
    if not len(rows):
        raise InputError(f"{KEY}: none of {len(nonempty[0]):,} records has an entry in every column")
    atomic.write_array(directory / "rows.npy", rows)
    atomic.write_json(directory / "columns.json", {"names": names, "entries": report})


def _ordered(names: set[str]) -> list[str]:
    """Sort names alphabetically, or numerically if all are integers."""
    return sorted(names, key=int if all(map(_INTEGER.fullmatch, names)) else None)


def _entries(kind: Kind, source: SourceConfig, report: reports.Report, bad: Bad) -> Iterator[Any]:
    """Yield the entries of a column that is not text: lists of tuples, or None if empty or bad."""
    raw = sources.documents(source, report, aligned=True, types=kind.types, expected=kind.expected)
    for number, value in enumerate(raw, 1):
        text, damage = steps.decode(value, "") if isinstance(value, bytes) else (value, "")
        text = text.strip() if isinstance(text, str) else text
        if text == "" and not damage:
            reports.count(report, "read", 0)
            reports.count(report, "dropped", 0, "empty")
            text = None
        try:
            # None: the entry is empty, or the reader of the file has rejected it.
            yield None if text is None else kind.parse(None if damage else text)
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
            yield bad(number, text, f"expected {kind.expected}")


def _bad(column: str, source: SourceConfig, report: reports.Report, number: int, value: Any, problem: str) -> None:
    skipped = sources.BAD_ROWS[source.bad_rows](report)
    selection = records.Selection(path=Path(source.path), field=source.field, skipped=skipped)
    message = f"record {number} of {source.path} is {value!r:.60}; {problem}"
    records.reject(selection, f"in column {column}", 0, message)


def _in_tokens(column: list[Any], documents: Iterator[tuple[str, str, np.ndarray]], bad: Bad) -> Iterator[Any]:
    """Convert spans from characters of the raw text to the tokens that overlap them."""
    for number, (spans, (raw, text, starts)) in enumerate(zip(column, documents, strict=True), 1):
        if not spans or not len(starts):
            yield spans
            continue
        if max(span[1] for span in spans) > len(raw):
            yield bad(number, spans, f"the text has the characters 0 to {len(raw)}")
            continue
        begins, ends = originals.align(raw, text)
        # The characters of the cleaned text that come from those of a span.
        trimmed = [_trimmed(raw, *span[:2]) for span in spans]
        ranges = [(int(ends.searchsorted(a, "right")), int(begins.searchsorted(b))) for a, b in trimmed]
        if any(a >= b for a, b in ranges):
            yield bad(number, spans, "cleaning drops the text of a span (config.data.clean.steps)")
        else:
            borders = np.array([[len(text[:at].encode()) for at in each] for each in ranges])
            # The tokens of one character start at the same byte: take the first of them.
            first = np.maximum(np.searchsorted(starts, borders[:, 0], "right") - 1, 0)
            first = np.searchsorted(starts, starts[first])
            last = np.maximum(np.searchsorted(starts, borders[:, 1]), first + 1)
            yield [(*each, span[2]) for *each, span in zip(first.tolist(), last.tolist(), spans, strict=True)]


def _trimmed(text: str, start: int, stop: int) -> tuple[int, int]:
    """Leave out white space at the ends of a span, which belongs to no token, or to those around the span."""
    part = text[start:stop]
    return (start + len(part) - len(part.lstrip()), start + len(part.rstrip())) if part.strip() else (start, stop)


def _documents(
    root: Path, source: SourceConfig, clean: chain.CleanConfig, tokenizer: tokenizers.Tokenizer
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield raw text, cleaned text, and byte offsets of the tokens in the cleaned text of each document of a column."""
    cleaned, raw = texts.prepare(root, source, clean, aligned=True), sources.documents(source, aligned=True)
    for unit in range(cleaned.units):
        documents = cleaned.unit(unit)
        encoded, offset = tokenizer.encode_with_starts(documents), 0
        begins = cast(np.ndarray, encoded.starts)
        stops = np.cumsum(encoded.counts)
        for text, start, stop in zip(documents, stops - encoded.counts, stops, strict=True):
            yield steps.decode(next(raw) or "", clean.encoding)[0], text, begins[start:stop] - offset
            offset += len(text.encode()) + 1


def _number(value: Any) -> list[tuple[float]]:
    # Rejects NaN, too, because every comparison with it is false.
    if isinstance(value, bool) or not abs(float(value)) <= np.finfo(np.float32).max:
        raise ValueError
    return [(float(value),)]


def _label(value: Any) -> list[tuple[str]]:
    if not isinstance(value, str):
        value = json.dumps(bool(value) if isinstance(value, (bool, np.bool_)) else int(value))
    return [(value,)]


def _spans(value: Any) -> list[tuple[int, int, str]]:
    spans = [tuple(span) for span in (json.loads(value) if isinstance(value, str) else value)]
    for first, last, name in spans:
        if type(first) is not int or type(last) is not int or not 0 <= first < last or not isinstance(name, str):
            raise ValueError
    return spans


class Kind(NamedTuple):
    """A kind of column: accepted value types, their name in messages, parser, and the dtype and width of its array.

    Example:
      >>> KINDS["spans"].parse('[[0, 3, "PER"]]'), KINDS["number"].parse("1.5"), KINDS["label"].parse(True)
      ([(0, 3, 'PER')], [(1.5,)], [('true',)])
    """

    types: tuple[type, ...]
    expected: str
    parse: Callable[[Any], list[Any]]
    dtype: type
    width: int


# Every kind but text.
KINDS = {
    "number": Kind((bytes, str, numbers.Real), "a finite number", _number, np.float32, 1),
    "label": Kind((bytes, str, numbers.Integral, np.bool_), "text, an integer, true or false", _label, np.int32, 1),
    "spans": Kind((bytes, str, list), "a list of [start, end, name], start < end", _spans, np.int32, 3),
}
