"""Corpora of columns, whose records have several fields: texts, numbers, labels, ids, and spans and tags of a text.

Entry i of every column belongs to record i, whatever cleaning drops and bad rows are left out: each text column has a
token store, in which a document that is left out stays as an empty document; the other columns are arrays, in which it
has no items. A record with an empty entry in any column gives no row.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError, Tree, build_entries, lookup, nearest, setting
from lm_jax.data import alignment, atomic, kinds, originals, records, sources, templates
from lm_jax.data.alignment import Bad
from lm_jax.data.clean import chain, steps
from lm_jax.data.clean import report as reports
from lm_jax.data.kinds import KINDS, Kind
from lm_jax.data.originals import Located, Originals
from lm_jax.data.several import Several, naming
from lm_jax.data.sources import SourceConfig
from lm_jax.data.store import Store

KEY = "config.data.columns"
# Increment it when the same entries would be stored differently.
VERSION = 1
# The same for spans. Since version 2, white space at their ends is left out, and cleaning may change the text inside.
SPANS_VERSION = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColumnConfig:
    """A column.

    Attributes:
      kind: "text" (tokens), "number" (a float), "label" (the id of a name), "labels" (a list of them), "spans" (JSON: a
        list of [start, end, name], offsets in characters of a text), "tags" (a name for each word of a text), "words"
        (the words of a text without tags, for which nothing is read) or "id" (text that no two records share).
      field: the field of a JSON object or column of a table; empty: the name of the column.
      path: files of this column alone, their records in the order of the other columns; empty: `config.data.path`.
      dev: files of this column alone to validate on; empty: `config.data.dev`.
      document: the unit of plain text that is a record: "line" (empty lines too), "paragraph" or "file".
      of: the text column that spans, tags or words refer to; empty: the only text column.
      names: the names of labels, spans or tags in the order of their ids; empty: the names in the data, sorted.
      template: for a text column: text with one {}, which stands for each entry, such as "Question: {}"; {{ and }} are
        braces. Entries without text stay empty; spans and tags refer to the entry alone.
    """

    kind: str = "text"
    field: str = ""
    path: str = setting("", local=True)
    dev: str = setting("", local=True)
    document: str = "line"
    of: str = ""
    names: tuple[str, ...] = ()
    template: str = ""


def parse(tree: Tree) -> dict[str, ColumnConfig]:
    """Return the columns of a configuration by name, with `of` filled in for spans and tags.

    Raises:
      InputError: an unknown kind, no text column, spans or tags of an unknown text column, or an invalid template.
    """
    columns = build_entries(ColumnConfig, tree, KEY)
    text_names = [name for name, column in columns.items() if column.kind == "text"]
    for name, column in columns.items():
        lookup({"text": None, **KINDS}, column.kind, f"{KEY}.{name}.kind")
        expected = [""]
        if column.kind != "text" and KINDS[column.kind].align:
            expected, columns[name] = text_names, dataclasses.replace(column, of=column.of or " ".join(text_names))
        if columns[name].of not in expected:
            raise InputError(f"{KEY}.{name}.of is {column.of!r}; expected {' or '.join(map(repr, expected))}")
        templates.split(column.template, f"{KEY}.{name}.template")
        if column.template and column.kind != "text":
            raise InputError(f"{KEY}.{name}.template is set, but only columns of the kind text have templates")
    if columns and not text_names:
        raise InputError(f"{KEY} names no text column; set the kind of one column to text")
    return columns


def locate(columns: Mapping[str, ColumnConfig], base: SourceConfig) -> dict[str, SourceConfig]:
    """Return the source of each column; columns that have no path are read from `base`, and words from their text.

    Raises:
      InputError: neither a column nor `base` has a path, or settings do not fit the files.
    """
    located = {}
    for name, column in columns.items():
        if column.kind != "text" and KINDS[column.kind].derived:
            continue
        path = column.path or base.path
        if path == SourceConfig.path:
            raise InputError(f"{KEY}.{name} has no path; set {KEY}.{name}.path, or config.data.path for all columns")
        source = dataclasses.replace(base, path=path, document=column.document, group="", template=column.template)
        has_fields = naming(f"{KEY}.{name}", sources.has_fields)(source)
        field = column.field or (name if has_fields else SourceConfig.field)
        located[name] = dataclasses.replace(source, field=field)
        naming(f"{KEY}.{name}", sources.check)(located[name])
    return {name: located.get(name) or located[column.of] for name, column in columns.items()}


@dataclasses.dataclass(frozen=True)
class Columns(Several):
    """A corpus of columns.

    Attributes:
      config: the columns by name.
      stores: token stores of the text columns.
      values: the other columns: numbers [records, 1], ids of labels [labels, 1], or spans and tagged words [spans, 3]:
        the first token, the token after the last, and the id of the name; of ids, the bytes in UTF-8 [bytes, 1].
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
        kind_of = {name: column.kind for name, column in self.config.items()}
        for name, most in reads.items():
            # `most` is above 0 for text columns only.
            if name not in kind_of or (kind_of[name] == "text") != (most > 0):
                choices = ", ".join(f"{each} ({kind})" for each, kind in kind_of.items())
                column = f"a column {name!r}{' of text' * (most > 0)}"
                raise InputError(f"the objective reads {column}; {KEY} has {choices}{nearest(name, kind_of)}")

    def read(self, name: str, record: int, most: int, first: int = 0) -> np.ndarray | np.generic:
        """Read one entry: int32 tokens, a number, the id of a label, ids of labels [labels], or int32 spans [spans, 3].

        Texts give at most `most` tokens from token `first` on, without prefix and EOS; spans that end after `most`
        tokens are left out. Tags have a row for each word, in order: of a word without a token, first and last + 1 are
        equal. For a column of the kind "id", the entry is the number of the record; see `id`.
        """
        start, stop = self.bounds[name][record : record + 2].tolist()
        if name in self.stores:
            start += self.before + first
            return self.stores[name].read(start, min(start + most, stop - 1))
        values, kind = self.values[name][start:stop], self.config[name].kind
        if KINDS[kind].align:
            return values[values[:, 1] <= most]
        return {"id": np.int32(record), "labels": values[:, 0]}[kind] if kind in ("id", "labels") else values[0, 0]

    def id(self, name: str, record: int) -> str:
        """Return the text of an entry of a column of the kind "id"."""
        return self.values[name][slice(*self.bounds[name][record : record + 2])].tobytes().decode()

    def sizes(self, name: str, records: Int[np.ndarray, " rows"], most: int) -> Int[np.ndarray, " rows"]:
        """Return the number of tokens of `read` for several records of a text column, without reading them."""
        bounds = self.bounds[name]
        # Without the prefix and EOS.
        return np.minimum(bounds[records + 1] - bounds[records] - self.before - 1, most)

    def located(self, name: str, record: int) -> Located:
        """Return the original text of a text column's entry, and where its tokens lie in it."""
        sides = templates.split(self.config[name].template, "template")
        return originals.locate(self.originals[name][record], self.clean, self.tokenizer, sides)


def join(
    root: Path,
    config: Mapping[str, ColumnConfig],
    base: SourceConfig,
    clean: chain.CleanConfig,
    stores: Mapping[str, Store],
    before: int,
    names: Mapping[str, Sequence[str]] | None = None,
) -> Columns:
    """Join the stores of the text columns with the other columns, which are read if they are not stored yet.

    `names` are those of another corpus with these columns, such as the training data: an entry with another name is
    bad. Columns that this corpus lacks, or that have no names, are ignored.

    Raises:
      InputError: the columns differ in their number of records, an entry is bad, or no record is complete; or `names`
        differ from those of the configuration.
    """
    located, others = locate(config, base), [name for name in config if name not in stores]
    fixed = _fixed(config, names or {})
    contents = {name: sources.fingerprint(located[name]) for name in others}
    contents |= {name: store.fingerprint for name, store in stores.items()}
    # Names that are fixed to none differ from names that are not fixed.
    known = {name: fixed[name] or "none" for name in fixed}
    entries = [[name, column.kind, column.of, known.get(name, ()), contents[name]] for name, column in config.items()]
    described: list[Any] = ["columns", VERSION, entries]
    if any(config[name].kind == "spans" for name in others):
        described.append(SPANS_VERSION)
    fingerprint = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]
    directory = root / "columns" / fingerprint
    bounds = {name: np.append(store.document_starts, store.tokens) for name, store in stores.items()}
    with atomic.lock_unfinished(directory, "columns.json", lambda: None) as unfinished:
        if unfinished:
            report = reports.empty()
            bad = {name: functools.partial(reject, name, located[name], report) for name in others}
            columns: dict[str, list[Any]] = {}
            for name in others:
                if (kind := KINDS[config[name].kind]).derived:
                    columns[name] = [()] * (len(bounds[config[name].of]) - 1)
                else:
                    stream = _entries(kind, located[name], report, bad[name])
                    columns[name] = naming(f"{KEY}.{name}", list)(stream)
            counts = {name: len(columns[name]) if name in columns else len(bounds[name]) - 1 for name in config}
            if len(set(counts.values())) > 1:
                totals = ", ".join(f"{name} {count:,}" for name, count in counts.items())
                raise InputError(f"{KEY} differ in their number of records; expected the same number in all: {totals}")
            for name in others:
                column, of = iter(columns[name]), config[name].of
                if name in fixed:
                    column = _known(column, fixed[name], bad[name])
                if (align := KINDS[config[name].kind].align) is not None:
                    column = align(column, alignment.Text(root, located[of], clean, stores[of].tokenizer), bad[name])
                if config[name].kind == "id":
                    column = _unique(column, bad[name])
                columns[name] = naming(f"{KEY}.{name}", list)(column)
            nonempty = [np.diff(starts) > before + 1 for starts in bounds.values()]
            _store(directory, config, fixed, columns, nonempty, report)
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
    bad = functools.partial(reject, name, source, report)
    return Originals(root, source, functools.partial(_entries, KINDS[column.kind], source, report, bad), column.kind)


def _fixed(config: Mapping[str, ColumnConfig], names: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return the names of the columns whose names are not those in the data."""
    fixed = {name: column.names for name, column in config.items() if column.names}
    for name, given in names.items():
        if name not in config or config[name].kind == "text" or not KINDS[config[name].kind].named:
            continue
        if fixed.setdefault(name, tuple(given)) != tuple(given):
            raise InputError(
                f"{KEY}.{name}.names is {fixed[name]!r:.200}, but the other corpus has {tuple(given)!r:.200}; leave it "
                "out, or set it to the same"
            )
    return fixed


def _store(
    directory: Path,
    config: Mapping[str, ColumnConfig],
    fixed: Mapping[str, Sequence[str]],
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
        if config[name].kind == "id":
            column, names[name] = [entry and entry[0][0].encode() for entry in column], []
            values = np.frombuffer(b"".join(filter(None, column)), kind.dtype)
        else:
            flat = [item for entry in column for item in entry or ()]
            data_names = {item[-1] for item in flat} if kind.named else set()
            names[name] = [*fixed[name]] if name in fixed else kinds.ordered(data_names)
            ids = {each: number for number, each in enumerate(names[name])}
            values = np.array([(*item[:-1], ids.get(item[-1], item[-1])) for item in flat], kind.dtype)
        atomic.write_array(directory / f"{name}.npy", values.reshape(-1, kind.width))
        atomic.write_array(directory / f"{name}.bounds.npy", np.cumsum([0, *(len(entry or ()) for entry in column)]))
        for group in () if kind.derived else ("read", "kept"):
            report[group]["documents"] += int(nonempty[-1].sum())
    rows = np.flatnonzero(np.logical_and.reduce(nonempty))
    if not len(rows):
        dropped = "".join(f"; {line}" for line in reports.summary(report))
        raise InputError(f"{KEY}: none of {len(nonempty[0]):,} records has an entry in every column{dropped}")
    atomic.write_array(directory / "rows.npy", rows)
    atomic.write_json(directory / "columns.json", {"names": names, "entries": report})


def _entries(kind: Kind, source: SourceConfig, report: reports.Report, bad: Bad) -> Iterator[Any]:
    """Yield the entries of a column that is not text: lists of tuples, or None if empty or bad."""
    raw = sources.documents(source, report, aligned=True, types=kind.types, expected=kind.expected)
    for record, value in enumerate(raw):
        text, damage = steps.decode(value, "") if isinstance(value, bytes) else (value, "")
        text = text.strip() if isinstance(text, str) else text
        if text == "" and not damage and not kind.empty:
            reports.count(report, "read", 0)
            reports.count(report, "dropped", 0, "empty")
            text = None
        try:
            # None: the entry is empty, or the reader of the file has rejected it.
            yield None if text is None else kind.parse(None if damage else text)
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
            yield bad(record, f"is {text!r:.60}; expected {kind.expected}")


def _known(column: Iterator[Any], names: Sequence[str], bad: Callable[..., None]) -> Iterator[Any]:
    """Yield the entries; those with a name that is not one of `names` are bad."""
    known = set(names)
    for record, entry in enumerate(column):
        unknown = next((item[-1] for item in entry or () if item[-1] not in known), None)
        yield entry if unknown is None else bad(record, f"has {unknown!r:.60}", unknown=unknown, known=names)


def _unique(column: Iterator[Any], bad: Callable[..., None]) -> Iterator[Any]:
    """Yield the entries of ids; those of an earlier record are bad."""
    first: dict[str, int] = {}
    for record, entry in enumerate(column):
        if entry is None or first.setdefault(entry[0][0], record) == record:
            yield entry
        else:
            problem = f"is {entry[0][0]!r:.60}; expected an id for each record"
            yield bad(record, problem, same=first[entry[0][0]])


def reject(
    column: str,
    source: SourceConfig,
    report: reports.Report,
    record: int,
    problem: str,
    same: int | None = None,
    unknown: str = "",
    known: Sequence[str] = (),
) -> None:
    """Count a bad entry of a record, or raise InputError.

    `same` is a record with the same entry; `unknown` is a name of the entry that is not among those `known`.
    """
    skipped = sources.BAD_ROWS[source.bad_rows](report)
    selection = records.Selection(path=Path(source.path), field=source.field, skipped=skipped)
    message = ""
    if skipped is None:
        # Places and similar names are found only here: that means reading the file again and comparing names.
        subject = f"field {source.field!r}" if sources.has_fields(source) else "the entry"
        problem += "" if same is None else f", but {sources.place(source, same)} has the same"
        problem += f"; expected {_choices(unknown, known)}" if unknown else ""
        message = f"{sources.place(source, record)}: {subject} {problem}"
    records.reject(selection, f"in column {column}", 0, message)


def _choices(name: str, known: Sequence[str]) -> str:
    """Return at most ten names, the nearest first."""
    close = difflib.get_close_matches(name, known, n=10, cutoff=0)
    more = f" or {len(known) - len(close):,} others" * (len(known) > len(close))
    return f"one of {', '.join(map(repr, close))}{more}" if close else "none, because no name is known"
