"""Columns: records of several fields: texts, numbers, labels, and named spans of a text.

Entry i of every column belongs to record i. Each text column has its own token store; a document that cleaning drops
stays there as an empty one. The other columns are arrays. A record with an empty entry in any column gives no row.
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

from lm_jax.core.config import InputError, Tree, entries, lookup, nearest, setting
from lm_jax.data import atomic, records, sources, texts, tokenizers
from lm_jax.data.clean import chain, steps
from lm_jax.data.clean import report as reports
from lm_jax.data.several import Several, naming
from lm_jax.data.sources import SourceConfig
from lm_jax.data.store import Store

KEY = "config.data.columns"
# Raised when the same entries would be stored differently.
VERSION = 1
_INTEGER = re.compile("0|-?[1-9][0-9]*")
# Counts a bad entry, by its number, what it is and what is wrong, or refuses it.
Bad = Callable[[int, Any, str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColumnConfig:
    """A column.

    Attributes:
      kind: "text" (tokens), "number" (a float), "label" (the id of a name) or "spans" (JSON: [start, end, name] in
        characters of a text).
      field: the field of a JSON object or column of a table; empty for the column's own name.
      path: files of this column alone, with the records of all in the same order; empty for `config.data.path`.
      document: what a record of plain text is: "line" (empty ones too), "paragraph" or "file".
      of: of spans, the text column that they lie in; empty for the only one.
      names: of labels and spans, the names in the order of their ids; empty for those of the data, in order.
    """

    kind: str = "text"
    field: str = ""
    path: str = setting("", local=True)
    document: str = "line"
    of: str = ""
    names: tuple[str, ...] = ()


def named(tree: Tree) -> dict[str, ColumnConfig]:
    """The columns of a configuration by name, with `of` filled in for spans.

    Raises:
      InputError: an unknown kind, no text column, or spans of an unknown text column.
    """
    columns = entries(ColumnConfig, tree, KEY)
    found = [name for name, column in columns.items() if column.kind == "text"]
    for name, column in columns.items():
        lookup({"text": None, **KINDS}, column.kind, f"{KEY}.{name}.kind")
        expected = [""]
        if column.kind == "spans":
            expected, columns[name] = found, dataclasses.replace(column, of=column.of or " ".join(found))
        if columns[name].of not in expected:
            raise InputError(f"{KEY}.{name}.of is {column.of!r}; expected {' or '.join(map(repr, expected))}")
    if columns and not found:
        raise InputError(f"{KEY} names no text; set the kind of one column to text")
    return columns


def located(columns: Mapping[str, ColumnConfig], base: SourceConfig) -> dict[str, SourceConfig]:
    """Where each column lies; `base` is the source of those without a path of their own.

    Raises:
      InputError: a column has no path, or its settings do not fit its files.
    """
    result = {}
    for name, column in columns.items():
        path = column.path or base.path
        if path == SourceConfig.path:
            raise InputError(f"{KEY}.{name} lies nowhere; set {KEY}.{name}.path, or config.data.path for all columns")
        source = dataclasses.replace(base, path=path, document=column.document, group="")
        has_fields = naming(f"{KEY}.{name}", sources.has_fields)(source)
        field = column.field or (name if has_fields else SourceConfig.field)
        result[name] = dataclasses.replace(source, field=field)
        naming(f"{KEY}.{name}", sources.check)(result[name])
    return result


@dataclasses.dataclass(frozen=True)
class Columns(Several):
    """A corpus of columns; it has the totals that a store has.

    Attributes:
      config: the columns by name.
      stores: token stores of the text columns.
      values: the other columns: numbers [records, 1], label ids [records, 1], or spans [spans, 3] of first token, one
        past the last token, and id of the name.
      bounds: record r has the tokens, or values, bounds[r]..bounds[r + 1] - 1.
      names: names by id.
      rows: records without an empty entry, ascending.
      entries: counts of entries read, kept and dropped in columns that are not text.
      fingerprint: hash of all columns.
      before: number of ids that every stored document begins with.
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

    @property
    def records(self) -> int:
        """Records, those that are no rows included."""
        return len(next(iter(self.bounds.values()))) - 1

    @property
    def report(self) -> reports.Report:
        """What cleaning did to the texts, and what became of the other entries."""
        return reports.total([super().report, self.entries])

    def check(self, reads: Mapping[str, int]) -> None:
        """Raises InputError if a column of `rows.Reads.columns` is missing or has another kind."""
        kinds = {name: column.kind for name, column in self.config.items()}
        for name, most in reads.items():
            # A text column is read with a number of tokens, any other with 0.
            if name not in kinds or (kinds[name] == "text") != (most > 0):
                there = ", ".join(f"{each} ({kind})" for each, kind in kinds.items())
                what = f"a column {name!r}{' of text' * (most > 0)}"
                raise InputError(f"the objective reads {what}; {KEY} has {there}{nearest(name, kinds)}")

    def read(self, name: str, record: int, most: int) -> np.ndarray | np.generic:
        """One entry: int32 tokens, a number, a label id or int32 spans [spans, 3].

        At most `most` tokens of a text are read, without the ids around it, and spans that end within them.
        """
        start, stop = self.bounds[name][record : record + 2].tolist()
        if name in self.stores:
            start += self.before
            return self.stores[name].read(start, min(start + most, stop - 1))
        values = self.values[name][start:stop]
        return values[values[:, 1] <= most] if self.config[name].of else values[0, 0]


def join(
    root: Path,
    config: Mapping[str, ColumnConfig],
    base: SourceConfig,
    clean: chain.CleanConfig,
    stores: Mapping[str, Store],
    before: int,
) -> Columns:
    """Joins the `stores` of text columns with the other columns, which are read unless they are stored already.

    Raises:
      InputError: columns of different numbers of records, a bad entry, or no whole record.
    """
    where, others = located(config, base), [name for name in config if name not in stores]
    contents = {name: sources.fingerprint(where[name]) for name in others}
    contents |= {name: store.fingerprint for name, store in stores.items()}
    each = [[name, one.kind, one.of, one.names, contents[name]] for name, one in config.items()]
    described = ["columns", VERSION, each]
    fingerprint = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]
    directory = root / "columns" / fingerprint
    bounds = {name: np.append(store.document_starts, store.tokens) for name, store in stores.items()}
    with atomic.unfinished(directory, "columns.json", lambda: None) as unfinished:
        if unfinished:
            report = reports.empty()
            bad = {name: functools.partial(_bad, name, where[name], report) for name in others}
            parsed = {name: _entries(KINDS[config[name].kind], where[name], report, bad[name]) for name in others}
            found = {name: naming(f"{KEY}.{name}", list)(each) for name, each in parsed.items()}
            counts = {name: len(found[name]) if name in found else len(bounds[name]) - 1 for name in config}
            if len(set(counts.values())) > 1:
                shown = ", ".join(f"{name} {count:,}" for name, count in counts.items())
                raise InputError(f"{KEY} differ in their records, which should be the same in all: {shown}")
            for name, of in [(name, config[name].of) for name in others if config[name].of]:
                documents = _documents(root, where[of], clean, stores[of].tokenizer)
                found[name] = naming(f"{KEY}.{name}", list)(_in_tokens(found[name], documents, bad[name]))
            whole = [np.diff(each) > before + 1 for each in bounds.values()]
            _store(directory, config, found, whole, report)
    values = {name: np.load(directory / f"{name}.npy") for name in others}
    bounds |= {name: np.load(directory / f"{name}.bounds.npy") for name in others}
    rows, manifest = np.load(directory / "rows.npy"), json.loads((directory / "columns.json").read_bytes())
    return Columns(config, stores, values, bounds, rows=rows, fingerprint=fingerprint, before=before, **manifest)


def _store(
    directory: Path,
    config: Mapping[str, ColumnConfig],
    found: Mapping[str, list[Any]],
    whole: list[np.ndarray],
    report: reports.Report,
) -> None:
    """Writes the columns that are not text, and the numbers of the records without an empty entry."""
    names = {}
    for name, lists in found.items():
        whole.append(np.array([entry is not None for entry in lists]))
        kind = KINDS[config[name].kind]
        flat = [item for entry in lists for item in entry or ()]
        there = {item[-1] for item in flat if isinstance(item[-1], str)}
        names[name] = list(config[name].names) or _ordered(there)
        if unknown := _ordered(there - {*names[name]}):
            raise InputError(f"{KEY}.{name}.names is {config[name].names}, but the data has {unknown[0]!r} too; add it")
        ids = {each: number for number, each in enumerate(names[name])}
        values = [(*item[:-1], ids.get(item[-1], item[-1])) for item in flat]
        atomic.write_array(directory / f"{name}.npy", np.array(values, kind.dtype).reshape(-1, kind.width))
        atomic.write_array(directory / f"{name}.bounds.npy", np.cumsum([0, *(len(entry or ()) for entry in lists)]))
        for group in ("read", "kept"):
            report[group]["documents"] += int(whole[-1].sum())
    rows = np.flatnonzero(np.logical_and.reduce(whole))
    if not len(rows):
        raise InputError(f"{KEY}: none of {len(whole[0]):,} records has an entry in every column")
    atomic.write_array(directory / "rows.npy", rows)
    atomic.write_json(directory / "columns.json", {"names": names, "entries": report})


def _ordered(names: set[str]) -> list[str]:
    """Names in alphabetical order; integers by size."""
    return sorted(names, key=int if all(map(_INTEGER.fullmatch, names)) else None)


def _entries(kind: Kind, source: SourceConfig, report: reports.Report, bad: Bad) -> Iterator[Any]:
    """Entries of a column that is not text: lists of tuples; None if empty or bad."""
    read = sources.documents(source, report, aligned=True, types=kind.types, expected=kind.expected)
    for number, value in enumerate(read, 1):
        text, damage = steps.decode(value, "") if isinstance(value, bytes) else (value, "")
        text = text.strip() if isinstance(text, str) else text
        if text == "" and not damage:
            reports.count(report, "read", 0)
            reports.count(report, "dropped", 0, "empty")
            text = None
        try:
            # None: empty, or rejected by the reader of the file.
            yield None if text is None else kind.parse(None if damage else text)
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
            yield bad(number, text, f"expected {kind.expected}")


def _bad(column: str, source: SourceConfig, report: reports.Report, number: int, value: Any, problem: str) -> None:
    """Counts a bad entry, or refuses it."""
    skipped = sources.BAD_ROWS[source.bad_rows](report)
    wanted = records.Wanted(path=Path(source.path), field=source.field, skipped=skipped)
    message = f"record {number} of {source.path} is {value!r:.60}; {problem}"
    records.reject(wanted, f"in column {column}", 0, message)


def _in_tokens(found: list[Any], documents: Iterator[tuple[str, str, np.ndarray]], bad: Bad) -> Iterator[Any]:
    """Turns spans of characters of the raw text into spans of the tokens that overlap them."""
    for number, (spans, (raw, text, starts)) in enumerate(zip(found, documents, strict=True), 1):
        shift = raw.find(text)
        if not spans or not len(starts):
            yield spans
        elif shift < 0:
            yield bad(number, spans, "cleaning changes the text inside (config.data.clean.steps)")
        elif min(spans)[0] < shift or max(span[1] for span in spans) > shift + len(text):
            yield bad(number, spans, f"the text has the characters {shift} to {shift + len(text)}")
        else:
            borders = np.array([[len(text[: at - shift].encode()) for at in span[:2]] for span in spans])
            # Several tokens may stand for one character: the first of them.
            held = starts[np.maximum(np.searchsorted(starts, borders[:, 0], "right") - 1, 0)]
            first = np.searchsorted(starts, held)
            last = np.maximum(np.searchsorted(starts, borders[:, 1]), first + 1)
            yield [(*each, span[2]) for *each, span in zip(first.tolist(), last.tolist(), spans, strict=True)]


def _documents(
    root: Path, source: SourceConfig, clean: chain.CleanConfig, tokenizer: tokenizers.Tokenizer
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Each document of a text column: raw text, cleaned text, and the bytes of it at which tokens start."""
    cleaned, raw = texts.prepare(root, source, clean, aligned=True), sources.documents(source, aligned=True)
    for unit in range(cleaned.units):
        documents = cleaned.unit(unit)
        encoded, offset = tokenizer.located(documents), 0
        begins = cast(np.ndarray, encoded.starts)
        stops = np.cumsum(encoded.counts)
        for text, start, stop in zip(documents, stops - encoded.counts, stops, strict=True):
            yield steps.decode(next(raw) or "", clean.encoding)[0], text, begins[start:stop] - offset
            offset += len(text.encode()) + 1


def _number(value: Any) -> list[tuple[float]]:
    # What float32 cannot hold, and NaN, which is equal to nothing.
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
    """The values that a column is read from, what a message calls them, how one becomes an entry, and their array."""

    types: tuple[type, ...]
    expected: str
    parse: Callable[[Any], list[Any]]
    dtype: type
    width: int


# All but text.
KINDS = {
    "number": Kind((bytes, str, numbers.Real), "a finite number", _number, np.float32, 1),
    "label": Kind((bytes, str, numbers.Integral, np.bool_), "text, an integer, true or false", _label, np.int32, 1),
    "spans": Kind((bytes, str, list), "a list of [start, end, name], start < end", _spans, np.int32, 3),
}
