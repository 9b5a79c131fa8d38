"""Sources of raw documents: files of text, JSON and tables, TFDS datasets, and Python's standard library.

Plain text is yielded as bytes, because cleaning determines the encoding; JSON is already text. Files are read in the
order of the list (those of a directory sorted by path), and their documents in order.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lm_jax.core.config import InputError, lookup, setting
from lm_jax.data import files as contents
from lm_jax.data import folders, formats, records, stdlib, templates, tfds
from lm_jax.data.clean import report as reports
from lm_jax.data.formats import Format
from lm_jax.data.records import EMPTY, MAX_DOCUMENT_BYTES, Selection


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """A source of text.

    Attributes:
      path: "stdlib", "tfds:NAME[/CONFIG][:VERSION]", or files, globs and directories (all text files below them)
        separated by commas. Files are plain text, JSON, .tsv or .csv, each also as .gz, .xz, .bz2 or .zst.
      format: how files are read: "auto" (by name, else by content), "text", "json" (lines, or an array of objects),
        "tsv", "csv", "squad", "conll" or "labelled" (see `annotated`).
      bad_rows: what to do with a record without text: "fail" raises an error, "skip" skips and counts it.
      field: the JSON field, feature of a dataset or column of a table that holds the text; a column by its name in the
        first line or, in conll and in a table without names, by its number from 0.
      group: the field or column whose value neighbouring records of one document share; line breaks join their texts.
        Empty: each record is a document.
      document: the unit of plain text that is a document: "file", "line" or "paragraph" (separated by empty lines).
      part: for stdlib: "docs" (docstrings and topics), "code" or "all".
      split: for tfds: the split, such as "train" or "train[:10%]".
      datasets: for tfds: the folder of all datasets; empty: $TFDS_DATA_DIR, else ~/tensorflow_datasets.
      template: text with one {}, which stands for each text: what is read is the whole ("Question: {}"); {{ and }} are
        braces. Of columns and mixtures only; empty: the text alone.
      weight: in a mixture: the share of the rows, relative to the sum of all weights; all 0: `temperature` decides.
    """

    path: str = setting("stdlib", local=True)
    format: str = "auto"
    bad_rows: str = "fail"
    field: str = "text"
    group: str = ""
    document: str = "file"
    part: str = "docs"
    split: str = "train"
    datasets: str = setting("", local=True)
    template: str = ""
    weight: float = setting(0.0, at_least=0)


def files(config: SourceConfig) -> list[Path]:
    """Return the files of a source, each once, in reading order: as listed, globs and directories sorted."""
    return _listed(config)[0]


def skipped(config: SourceConfig) -> int:
    """Return the number of files in the source's directories that are hidden or not text."""
    return _listed(config)[1]


def check(config: SourceConfig) -> None:
    """Raise InputError for settings that do not fit the source's files."""
    lookup(formats.CHOICES, config.format, formats.KEY)
    lookup(BAD_ROWS, config.bad_rows, "config.data.bad_rows")
    templates.split(config.template, "template")
    if not _is_files(config):
        if config.format != "auto":
            raise InputError(f"{formats.KEY} is {config.format!r}, but {config.path} is not a file; leave it out")
        return
    if _configured_fields(config):
        for path in files(config):
            _check_fields(path, formats.identify(path, config.format), config)


def notes(config: SourceConfig) -> list[str]:
    """Return lines such as "x.json: JSON lines" for files whose content, not name, decided the format."""
    if not _is_files(config) or config.format != "auto":
        return []
    paths_by_note: dict[str, list[Path]] = {}
    for path in files(config):
        if note := formats.note(path, formats.identify(path, config.format)):
            paths_by_note.setdefault(note, []).append(path)
    lines = []
    for note, (first, *others) in paths_by_note.items():
        more = f" and {len(others):,} other file{'s' * (len(others) != 1)}" if others else ""
        lines.append(f"{first.name}{more}: {note}")
    return lines


def has_fields(config: SourceConfig) -> bool:
    """Whether a source consists of records with fields, as all but plain text do."""
    return not _is_files(config) or any(formats.identify(path, config.format).has_fields for path in files(config))


def _is_files(config: SourceConfig) -> bool:
    return config.path != "stdlib" and not config.path.startswith(tfds.PREFIX)


def _configured_fields(config: SourceConfig) -> list[tuple[str, str]]:
    values = {key: getattr(config, key) for key in ("field", "group")}
    return [(key, value) for key, value in values.items() if value != getattr(SourceConfig, key)]


def _check_fields(path: Path, form: Format, config: SourceConfig) -> None:
    for key, value in _configured_fields(config):
        if not form.has_fields:
            raise InputError(
                f"config.data.{key} is {value!r}, but {path} is plain text, which has no fields; expected JSON, .tsv "
                f"or .csv: name such files only, set {formats.KEY} to json, tsv, csv, squad, conll or labelled, or "
                f"leave out config.data.{key}"
            )


def _listed(config: SourceConfig) -> tuple[list[Path], int]:
    if config.path == "stdlib":
        return lookup(stdlib.PARTS, config.part, "config.data.part").files(), 0
    if config.path.startswith(tfds.PREFIX):
        return tfds.files(config.path, config.split, config.datasets), 0
    value = os.path.expanduser(config.path)
    patterns = [value] if os.path.exists(value) else [piece.strip() for piece in value.split(",") if piece.strip()]
    paths: dict[Path, None] = {}
    skipped_files = 0
    for pattern in patterns:
        pattern = os.path.expanduser(pattern)
        # The name of an existing file may look like a pattern.
        matches = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        matches = [match for match in matches if glob.escape(pattern) == pattern or not os.path.isdir(match)]
        if not matches:
            problem = "no file matches" if glob.has_magic(pattern) else "there is no file"
            raise InputError(
                f"config.data.path: {problem} {pattern} (relative to {os.getcwd()}); give a file, a glob, a directory, "
                "tfds:NAME or 'stdlib'"
            )
        for path in map(Path, matches):
            texts, others = folders.below(path) if path.is_dir() else ([path], 0)
            paths.update(dict.fromkeys(texts))
            skipped_files += others
    if not paths:
        raise InputError(
            f"config.data.path is {config.path!r}; expected a file, a glob, a directory, tfds:NAME or 'stdlib'"
        )
    for path in paths:
        contents.refuse_name(path)
        if not path.exists():
            raise InputError(f"config.data.path: {path} is a link to {os.readlink(path)}, which is missing; repair it")
    return list(paths), skipped_files


def documents(
    config: SourceConfig, report: reports.Report | None = None, *, aligned: bool = False, **accepted: Any
) -> Iterator[Any]:
    """Stream the raw documents of a source: bytes or text.

    Args:
      config: the source.
      report: counts the rows that `bad_rows` skips, as read and dropped.
      aligned: keep document i at index i: skipped rows become None, and empty lines are documents.
      accepted: `types`, `expected` and `words` of `Selection`, to read values other than text.

    Raises:
      InputError: a file is missing or damaged, a line is not JSON, or a field is missing.
    """
    skipped_rows = lookup(BAD_ROWS, config.bad_rows, "config.data.bad_rows")(
        reports.empty() if report is None else report
    )
    for document, _, _ in _placed(config, skipped_rows, aligned, accepted):
        yield document


def place(config: SourceConfig, index: int) -> str:
    """Return the file and line of an aligned document, such as "a.csv line 3", by reading the source again."""
    # Bad rows are skipped here: if they are errors, none of them comes before the document.
    everything = {"types": (object,)}
    placed = itertools.islice(_placed(config, reports.empty(), True, everything), index, None)
    _, path, at = next(placed)
    return f"{path} line {at}" if isinstance(at, int) else f"{path} {at}"


def _placed(
    config: SourceConfig, skipped_rows: reports.Report | None, aligned: bool, accepted: dict[str, Any]
) -> Iterator[tuple[Any, Path | str, int | str]]:
    """Yield the raw documents with their file and their place in it: the number of a line, or words."""
    instead, splitters = (EMPTY, ALIGNED) if aligned else ((), DOCUMENTS)
    fields = {"field": config.field, "group": config.group}
    select = functools.partial(Selection, **fields, skipped=skipped_rows, instead=instead, **accepted)
    if config.path == "stdlib":
        parts = lookup(stdlib.PARTS, config.part, "config.data.part").documents()
        yield from ((document, config.path, f"document {number}") for number, document in enumerate(parts, 1))
        return
    if config.path.startswith(tfds.PREFIX):
        selection = select(path=Path(config.path))
        joined = records.joined(tfds.texts(selection, config.split, config.datasets), selection)
        yield from ((document, config.path, at) for document, at in joined)
        return
    split = lookup(splitters, config.document, "config.data.document")
    for path in files(config):
        form = formats.identify(path, config.format)
        _check_fields(path, form, config)
        with contents.opened(path) as content:
            if form.has_fields:
                selection = select(path=path)
                joined = records.joined(formats.READERS[form.name](content.stream, selection), selection)
                yield from ((document, path, at) for document, at in joined)
            else:
                yield from ((document, path, at) for at, document in split(content.stream, path))


# Each returns the report that counts bad rows; None: the first one raises InputError.
BAD_ROWS: dict[str, Callable[[reports.Report], reports.Report | None]] = {
    "fail": lambda report: None,
    "skip": lambda report: report,
}


def size_bytes(config: SourceConfig) -> int:
    """Return the total size of a source's files on disk."""
    return sum(path.stat().st_size for path in files(config))


def fingerprint(config: SourceConfig) -> str:
    """Return a hash of the contents and sizes of the files, in order, and of how they are read; not of their paths."""
    import xxhash

    digest = xxhash.xxh3_128(b"source 1")
    for path in files(config):
        try:
            size = path.stat().st_size
            with open(path, "rb") as file:
                file_digest = xxhash.xxh3_128()
                while block := file.read(1 << 22):
                    file_digest.update(block)
        except OSError as error:
            raise InputError(f"config.data.path: cannot read {path} ({error.strerror})") from error
        digest.update(json.dumps(_reading(config, path, size)).encode())
        digest.update(file_digest.digest())
    for name in ("format", "bad_rows", "template"):
        if getattr(config, name) != getattr(SourceConfig, name):
            digest.update(json.dumps([name, getattr(config, name)]).encode())
    return digest.hexdigest()


def _reading(config: SourceConfig, path: Path, size: int) -> list[Any]:
    """Return how a file is read, for the fingerprint: as in version 1 for files that are read as they were then."""
    suffix = "".join(path.suffixes[-1:])
    if config.path == "stdlib":
        return [config.part, False, suffix, size]
    if config.path.startswith(tfds.PREFIX):
        return [config.document, False, suffix, size, "tfds", config.field, config.split, config.group]
    form = formats.identify(path, config.format)
    is_lines, unit = form.name == "JSON lines", config.field if form.has_fields else config.document
    described: list[Any] = [unit, is_lines, suffix, size]
    if form.has_fields and (config.group or not is_lines):
        described += [_former_kind(path), config.group]
    if not _is_unchanged(path, form):
        described += ["formats 2", form.name, form.compressions, form.encoding]
    return described


# Before version 2 of the formats, the name alone decided the format, and its case mattered.
_FORMER = {".jsonl": "JSON lines", ".ndjson": "JSON lines", ".tsv": "tsv", ".csv": "csv"}
_FORMER_COMPRESSIONS = {".gz": "gzip", ".xz": "xz", ".bz2": "bzip2", ".zst": "Zstandard"}


def _former_kind(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix in _FORMER_COMPRESSIONS else path.suffix


def _is_unchanged(path: Path, form: Format) -> bool:
    """Whether a file was read in the same way before version 2 of the formats."""
    former = [_FORMER_COMPRESSIONS[path.suffix]] if path.suffix in _FORMER_COMPRESSIONS else []
    if list(form.compressions) != former or form.encoding == "utf-32":
        return False
    if form.name != _FORMER.get(_former_kind(path), "text"):
        return False
    if ".csv" not in path.suffixes[-2:]:
        return True
    # Before, the first line decided between tabs and commas.
    with contents.opened(path) as content:
        return form.name == "csv" and b"\t" not in content.stream.readline()


def _whole(lines: io.BufferedReader, path: Path) -> Iterator[tuple[int, bytes]]:
    pieces, size = [], 0
    for line in lines:
        pieces.append(line)
        size += len(line)
        if size > MAX_DOCUMENT_BYTES:
            raise InputError(
                f"{path} is one document of more than {MAX_DOCUMENT_BYTES >> 30} GiB; set config.data.document to "
                "paragraph or line"
            )
    yield 1, b"".join(pieces)


def _every_line(lines: io.BufferedReader, path: Path) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(lines, 1):
        yield number, line.rstrip(b"\r\n")


def _nonempty_lines(lines: io.BufferedReader, path: Path) -> Iterator[tuple[int, bytes]]:
    return ((number, line) for number, line in _every_line(lines, path) if line)


def _paragraphs(lines: io.BufferedReader, path: Path) -> Iterator[tuple[int, bytes]]:
    paragraph: list[bytes] = []
    start = 0
    for number, line in enumerate(lines, 1):
        if line.strip():
            start = start if paragraph else number
            paragraph.append(line)
        elif paragraph:
            yield start, b"".join(paragraph)
            paragraph = []
    if paragraph:
        yield start, b"".join(paragraph)


# Each yields the documents of plain text and the numbers of their first lines.
DOCUMENTS: dict[str, Callable[[io.BufferedReader, Path], Iterator[tuple[int, bytes]]]] = {
    "file": _whole,
    "line": _nonempty_lines,
    "paragraph": _paragraphs,
}
ALIGNED = {**DOCUMENTS, "line": _every_line}
