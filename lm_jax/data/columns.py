"""Columns: a corpus whose records have several parts, texts, numbers, labels and named spans of a text.

Record i of every column is record i of all. A text column is a token store of its own, with an empty document in the
place of each that cleaning drops; the values of the others lie together as arrays. A record with an empty entry is no
row.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import numbers
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError, Tree, entries, lookup, setting
from lm_jax.data import atomic, records, sources, texts, tokenizers
from lm_jax.data.clean import chain, steps
from lm_jax.data.clean import report as reports
from lm_jax.data.several import Several, naming
from lm_jax.data.sources import SourceConfig
from lm_jax.data.store import Store

KEY = "config.data.columns"
# Raised when the same values would be stored differently.
VERSION = 1
_INTEGER = re.compile("0|-?[1-9][0-9]*")


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
    """

    kind: str = "text"
    field: str = ""
    path: str = setting("", local=True)
    document: str = "line"
    of: str = ""


def named(tree: Tree) -> dict[str, ColumnConfig]:
    """The columns of a configuration by name, the `of` of spans filled in.

    Raises:
      InputError: a kind that there is not, no text, or spans of no text.
    """
    columns = entries(ColumnConfig, tree, KEY)
    found = [name for name, column in columns.items() if column.kind == "text"]
    if columns and not found:
        raise InputError(f"{KEY} names no text; set the kind of one column to text")
    for name, column in columns.items():
        lookup({"text": None, **KINDS}, column.kind, f"{KEY}.{name}.kind")
        of = column.of or (found[0] if column.kind == "spans" and len(found) == 1 else "")
        if of not in (found if column.kind == "spans" else [""]):
            expected = f"a text column: {', '.join(found)}" if column.kind == "spans" else "nothing: it is of spans"
            raise InputError(f"{KEY}.{name}.of is {of!r}; expected {expected}")
        columns[name] = dataclasses.replace(column, of=of)
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
    """A corpus of columns; to those who only ask what there is, a store.

    Attributes:
      config: the columns by name.
      stores: of the text columns.
      values: of the others: numbers [records], ids of names [records], or spans [spans, 3], which are
        [first token, one past the last, id of the name].
      bounds: [records + 1], of a text column the tokens, of spans the spans at which records begin.
      names: what ids stand for, in order.
      rows: the records without an empty entry, ascending.
      read_report: what became of the entries that are no text.
      fingerprint: of all columns.
      before: how many ids every stored document begins with.
    """

    config: Mapping[str, ColumnConfig]
    stores: Mapping[str, Store]
    values: Mapping[str, np.ndarray]
    bounds: Mapping[str, Int[np.ndarray, " records_and_one"]]
    names: Mapping[str, Sequence[str]]
    rows: Int[np.ndarray, " rows"]
    read_report: reports.Report
    fingerprint: str
    before: int

    @property
    def records(self) -> int:
        """Records, those that are no rows included."""
        return len(self.bounds[next(iter(self.stores))]) - 1

    @property
    def report(self) -> reports.Report:
        """What cleaning did to the texts, and what became of the other entries."""
        return reports.total([super().report, self.read_report])

    def read(self, name: str, record: int, most: int) -> np.ndarray | np.generic:
        """What a column holds in a record.

        Args:
          name: the column.
          record: below `records`.
          most: tokens to read of a text, without the ids around it; spans that do not lie within so many are left out.

        Returns:
          int32 tokens, a float32 number, the int32 id of a label, or int32 [spans, 3].
        """
        if name not in self.bounds:
            return self.values[name][record].astype(f"{self.values[name].dtype.kind}4")
        start, stop = self.bounds[name][record : record + 2].tolist()
        if name in self.values:
            spans = self.values[name][start:stop].astype(np.int32)
            return spans[spans[:, 1] <= most]
        start += self.before
        return self.stores[name].read(start, min(start + most, stop - 1))


def join(
    root: Path,
    config: Mapping[str, ColumnConfig],
    base: SourceConfig,
    clean: chain.CleanConfig,
    stores: Mapping[str, Store],
    before: int,
) -> Columns:
    """The columns of a configuration; what is no text is read and stored where that has not been done.

    Args:
      root: the directory of all prepared corpora.
      config: the columns by name.
      base: the source of columns without a path of their own.
      clean: how the texts were cleaned.
      stores: of the text columns, aligned.
      before: how many ids every stored document begins with.

    Raises:
      InputError: columns of different numbers of records, a value that is none, or no whole record.
    """
    where = located(config, base)
    contents = {
        name: stores[name].fingerprint if name in stores else sources.fingerprint(where[name]) for name in config
    }
    described = ["columns", VERSION, [[name, each.kind, each.of, contents[name]] for name, each in config.items()]]
    fingerprint = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]
    directory = root / "columns" / fingerprint
    directory.mkdir(parents=True, exist_ok=True)
    bounds = {name: np.append(each.document_starts, each.tokens) for name, each in stores.items()}
    with atomic.locked(directory / "lock", lambda: None):
        if not (directory / "columns.json").exists():
            atomic.remove_partial(directory)
            found, report = {}, reports.empty()
            for name in config.keys() - stores.keys():
                found[name] = list(_entries(name, config[name], where[name], report))
            _check_counts({name: len(found.get(name, bounds.get(name, ())[1:])) for name in config})
            for name in filter(lambda name: config[name].of, config):
                of = config[name].of
                documents = _documents(root, where[of], clean, stores[of].tokenizer)
                found[name] = list(_in_tokens(name, where[name], found[name], documents, report))
            _store(directory, config, found, [np.diff(each) > before + 1 for each in bounds.values()], report)
    manifest = json.loads((directory / "columns.json").read_bytes())
    values = {name: np.load(directory / f"{name}.npy", mmap_mode="r") for name in config if name not in stores}
    bounds |= {name: np.load(directory / f"{name}.bounds.npy") for name in config if config[name].of}
    rows = np.load(directory / "rows.npy")
    return Columns(config, stores, values, bounds, rows=rows, fingerprint=fingerprint, before=before, **manifest)


def _check_counts(counts: Mapping[str, int]) -> None:
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        raise InputError(f"{KEY} differ in their numbers of records: {shown}; record i of each must be record i of all")


def _store(
    directory: Path,
    config: Mapping[str, ColumnConfig],
    found: Mapping[str, list[Any]],
    whole: list[np.ndarray],
    report: reports.Report,
) -> None:
    """Writes the entries of all columns that are no text, and which records have no empty entry."""
    names = {}
    for name, each in found.items():
        whole.append(np.array([entry is not None for entry in each]))
        for _ in range(int(whole[-1].sum())):
            reports.count(report, "read", 0)
            reports.count(report, "kept", 0)
        arrays, names[name] = KINDS[config[name].kind].pack(each)
        for suffix, array in arrays.items():
            atomic.write_array(directory / f"{name}{suffix}.npy", array)
    rows = np.flatnonzero(np.logical_and.reduce(whole))
    if not len(rows):
        raise InputError(f"{KEY}: none of {len(whole[0]):,} records has all of {', '.join(config)}")
    atomic.write_array(directory / "rows.npy", rows)
    atomic.write_json(directory / "columns.json", {"names": names, "read_report": report})


def _entries(name: str, column: ColumnConfig, source: SourceConfig, report: reports.Report) -> Iterator[Any]:
    """The entries of a column; None for each that is empty or bad."""
    kind = KINDS[column.kind]
    read = sources.documents(source, report, aligned=True, types=kind.types, expected=kind.expected)
    for number, value in enumerate(read):
        text, damage = steps.decode(value, "") if isinstance(value, bytes) else (value, "")
        text = text.strip() if isinstance(text, str) else text
        if text == "" and not damage:
            reports.count(report, "read", 0)
            reports.count(report, "dropped", 0, "empty")
            text = None
        try:
            # None: empty, or rejected by the reader.
            yield None if text is None else kind.parse(None if damage else text)
        except (ValueError, TypeError, OverflowError, RecursionError):
            yield _bad(name, source, number, value, f"expected {kind.expected}", report)


def _bad(name: str, source: SourceConfig, number: int, value: Any, problem: str, report: reports.Report) -> None:
    """Counts a bad entry, or refuses it."""
    skipped = sources.BAD_ROWS[source.bad_rows](report)
    wanted = records.Wanted(path=Path(source.path), field=source.field, skipped=skipped)
    message = f"{KEY}.{name}: record {number} of {source.path} is {value!r:.60}; {problem}"
    records.reject(wanted, f"in column {name}", 0, message)


def _documents(
    root: Path, source: SourceConfig, clean: chain.CleanConfig, tokenizer: tokenizers.Tokenizer
) -> Iterator[tuple[str, str, np.ndarray]]:
    """The documents of a text column as they came, and cleaned, and at which bytes of these their tokens start."""
    cleaned, raw = texts.prepare(root, source, clean, aligned=True), sources.documents(source, aligned=True)
    for unit in range(cleaned.units):
        documents = cleaned.unit(unit)
        encoded, offset = tokenizer.located(documents), 0
        stops = np.cumsum(encoded.counts)
        for text, start, stop in zip(documents, stops - encoded.counts, stops, strict=True):
            yield steps.decode(next(raw) or "", clean.encoding)[0], text, encoded.starts[start:stop] - offset
            offset += len(text.encode()) + 1


def _in_tokens(
    name: str, source: SourceConfig, found: list[Any], documents: Iterator[Any], report: reports.Report
) -> Iterator[Any]:
    """Spans of characters of a raw text as spans of the tokens that hold a part of them."""
    for number, (spans, (raw, text, starts)) in enumerate(zip(found, documents, strict=True)):
        shift = raw.find(text)
        inside = all(shift <= first < last <= shift + len(text) for first, last, _ in spans or ())
        if spans and len(starts) and not (inside and shift >= 0):
            problem = "cleaning changes its text (config.data.clean.steps)" if shift < 0 else "it is not in its text"
            spans = _bad(name, source, number, spans, problem, report)
        if not spans or not len(starts):
            yield spans
            continue
        borders = np.array([[len(text[: at - shift].encode()) for at in span[:2]] for span in spans])
        # Several tokens may stand for one character: the first of them.
        held = starts[np.maximum(np.searchsorted(starts, borders[:, 0], "right") - 1, 0)]
        first = np.searchsorted(starts, held)
        last = np.maximum(np.searchsorted(starts, borders[:, 1]), first + 1)
        yield [(*each, span[2]) for *each, span in zip(first.tolist(), last.tolist(), spans, strict=True)]


def _number(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(float(value)):
        raise ValueError
    return float(value)


def _numbers(found: list[Any]) -> tuple[dict[str, np.ndarray], list[str]]:
    return {"": np.array([math.nan if entry is None else entry for entry in found], np.float64)}, []


def _label(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(bool(value) if isinstance(value, (bool, np.bool_)) else int(value))


def _labels(found: list[Any]) -> tuple[dict[str, np.ndarray], list[str]]:
    ids = _ids({entry for entry in found if entry is not None})
    return {"": np.array([ids.get(entry, -1) for entry in found], np.int64)}, list(ids)


def _ids(names: set[str]) -> dict[str, int]:
    """Ids of names in alphabetical order; of integers by size."""
    ordered = sorted(names, key=int if all(map(_INTEGER.fullmatch, names)) else None)
    return {name: number for number, name in enumerate(ordered)}


def _spans(value: Any) -> list[tuple[int, int, str]]:
    items = json.loads(value) if isinstance(value, str) else value
    if not isinstance(items, list):
        raise ValueError
    return [_span(**item) if isinstance(item, dict) else _span(*item) for item in items]


def _span(start: Any, end: Any, name: Any = None, label: Any = None, **others: Any) -> tuple[int, int, str]:
    name = label if name is None else name
    if type(start) is not int or type(end) is not int or not 0 <= start < end or not isinstance(name, str):
        raise ValueError
    return start, end, name


def _packed_spans(found: list[Any]) -> tuple[dict[str, np.ndarray], list[str]]:
    ids = _ids({name for entry in found for _, _, name in entry or ()})
    spans = [(first, last, ids[name]) for entry in found for first, last, name in entry or ()]
    bounds = np.cumsum([0, *(len(entry or ()) for entry in found)])
    return {"": np.array(spans, np.int64).reshape(-1, 3), ".bounds": bounds}, list(ids)


class Kind(NamedTuple):
    """What the entries of a column are.

    Attributes:
      types: of the values that are read.
      expected: what a message calls them.
      parse: from a value to an entry; raises where it is none.
      pack: from entries, None where there is none, to arrays by suffix and the names of ids.
    """

    types: tuple[type, ...]
    expected: str
    parse: Callable[[Any], Any]
    pack: Callable[[list[Any]], tuple[dict[str, np.ndarray], list[str]]]


# All but text.
KINDS = {
    "number": Kind((bytes, str, numbers.Real), "a finite number", _number, _numbers),
    "label": Kind((bytes, str, numbers.Integral, np.bool_), "text, an integer, true or false", _label, _labels),
    "spans": Kind((bytes, str, list), "a list of [start, end, name], start < end", _spans, _packed_spans),
}
