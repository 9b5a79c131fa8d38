"""Raw documents: files of text, JSON and tables, TFDS datasets, and Python's own library as the corpus at hand.

Plain text is yielded as bytes, because what its bytes mean is for cleaning to decide; JSON is text already.
The order of documents is the order of the files named (of a directory: by path), and within one file its own.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lm_jax.core.config import InputError, lookup, setting
from lm_jax.data import files as contents
from lm_jax.data import folders, formats, records, stdlib, tfds
from lm_jax.data.clean import report as reports
from lm_jax.data.formats import Format
from lm_jax.data.records import EMPTY, MAX_DOCUMENT_BYTES, Wanted


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Which text.

    Attributes:
      path: "stdlib", "tfds:NAME[/CONFIG][:VERSION]", or files, globs and directories separated by commas: plain text,
        JSON, .tsv or .csv, each also as .gz, .xz, .bz2 or .zst. Of a directory, all that is text.
      format: how files are read: "auto" (by name, else by content), "text", "json" (lines, or an array of objects),
        "tsv" or "csv".
      bad_rows: what becomes of a record without text: "fail" stops there, "skip" leaves it out and counts it.
      field: what holds the text: the field of a JSON object, the feature of a dataset, the column of a table, by its
        name in the first line or, where a table has no such line, by its number from 0.
      group: the field or column whose value neighbouring records of one document share; empty where each record is a
        document. Their texts are joined by line breaks.
      document: what one document of plain text is: "file", "line" or "paragraph" (cut at empty lines).
      part: of stdlib: "docs" (documentation strings and topics), "code" or "all".
      split: of tfds: its split, such as "train" or "train[:10%]".
      datasets: of tfds: the folder of all datasets; empty for $TFDS_DATA_DIR, else ~/tensorflow_datasets.
      weight: in a mixture: its share of the rows is this over the sum of all; 0 in all of them leaves it to
        `temperature`.
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
    weight: float = setting(0.0, at_least=0)


def files(config: SourceConfig) -> list[Path]:
    """The files of a source, each once, in the order they are read: as listed, globs and directories sorted."""
    return _listed(config)[0]


def skipped(config: SourceConfig) -> int:
    """How many files of the source's directories are hidden or no text."""
    return _listed(config)[1]


def check(config: SourceConfig) -> None:
    """Raise InputError for settings that the source's files cannot meet."""
    lookup(formats.CHOICES, config.format, formats.KEY)
    lookup(BAD_ROWS, config.bad_rows, "config.data.bad_rows")
    if not _is_files(config):
        if config.format != "auto":
            raise InputError(f"{formats.KEY} is {config.format!r}, but {config.path} is no file; leave it out")
        return
    if _named(config):
        for path in files(config):
            _check_fields(path, formats.identify(path, config.format), config)


def notes(config: SourceConfig) -> list[str]:
    """What was taken for what, such as "x.json: JSON lines", where a file's content decided and not its name."""
    if not _is_files(config) or config.format != "auto":
        return []
    alike: dict[str, list[Path]] = {}
    for path in files(config):
        if note := formats.note(path, formats.identify(path, config.format)):
            alike.setdefault(note, []).append(path)
    lines = []
    for note, (first, *others) in alike.items():
        more = f" and {len(others):,} other file{'s' * (len(others) != 1)}" if others else ""
        lines.append(f"{first.name}{more}: {note}")
    return lines


def has_fields(config: SourceConfig) -> bool:
    """Whether the records of a source have fields, as those of all but plain text do."""
    return not _is_files(config) or any(formats.identify(path, config.format).has_fields for path in files(config))


def _is_files(config: SourceConfig) -> bool:
    return config.path != "stdlib" and not config.path.startswith(tfds.PREFIX)


def _named(config: SourceConfig) -> list[tuple[str, str]]:
    """The settings that say what to read of a record, where they are not left out."""
    default = SourceConfig()
    return [(key, getattr(config, key)) for key in ("field", "group") if getattr(config, key) != getattr(default, key)]


def _check_fields(path: Path, form: Format, config: SourceConfig) -> None:
    for key, value in _named(config):
        if not form.has_fields:
            raise InputError(
                f"config.data.{key} is {value!r}, but {path} is plain text, which has no fields; expected JSON, .tsv "
                f"or .csv: name such files only, set {formats.KEY} to json, tsv or csv, or leave out config.data.{key}"
            )


def _listed(config: SourceConfig) -> tuple[list[Path], int]:
    if config.path == "stdlib":
        return lookup(stdlib.PARTS, config.part, "config.data.part").files(), 0
    if config.path.startswith(tfds.PREFIX):
        return tfds.files(config.path, config.split, config.datasets), 0
    whole = os.path.expanduser(config.path)
    patterns = [whole] if os.path.exists(whole) else [part.strip() for part in whole.split(",") if part.strip()]
    found: dict[Path, None] = {}
    passed_over = 0
    for pattern in patterns:
        pattern = os.path.expanduser(pattern)
        # A file whose name looks like a pattern is still that file.
        matches = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        matches = [match for match in matches if glob.escape(pattern) == pattern or not os.path.isdir(match)]
        if not matches:
            what = "no file matches" if glob.has_magic(pattern) else "there is no file"
            raise InputError(
                f"config.data.path: {what} {pattern} (seen from {os.getcwd()}); give a file, a glob, a directory, "
                "tfds:NAME or 'stdlib'"
            )
        for path in map(Path, matches):
            inside, others = folders.below(path) if path.is_dir() else ([path], 0)
            found.update(dict.fromkeys(inside))
            passed_over += others
    if not found:
        raise InputError(
            f"config.data.path is {config.path!r}; expected a file, a glob, a directory, tfds:NAME or 'stdlib'"
        )
    for path in found:
        contents.refuse_name(path)
        if not path.exists():
            raise InputError(f"config.data.path: {path} is a link to {os.readlink(path)}, which is not there; mend it")
    return list(found), passed_over


def documents(
    config: SourceConfig, report: reports.Report | None = None, *, aligned: bool = False, **accepted: Any
) -> Iterator[Any]:
    """Every raw document of a source, streamed: bytes or text.

    Args:
      config: which text.
      report: rows that `bad_rows` leaves out are counted here, as read and dropped.
      aligned: document i has to stay document i: rows that are left out are None, and empty lines are documents.
      accepted: `types` and `expected` of `Wanted`, where other values than text are read.

    Raises:
      InputError: a missing or damaged file, a line that is not JSON, a field that is not there.
    """
    bad = lookup(BAD_ROWS, config.bad_rows, "config.data.bad_rows")(reports.empty() if report is None else report)
    instead, cuts = (EMPTY, ALIGNED) if aligned else ((), DOCUMENTS)
    wanted = functools.partial(Wanted, field=config.field, group=config.group, skipped=bad, instead=instead, **accepted)
    if config.path == "stdlib":
        yield from lookup(stdlib.PARTS, config.part, "config.data.part").documents()
        return
    if config.path.startswith(tfds.PREFIX):
        named = wanted(path=Path(config.path))
        yield from records.joined(tfds.texts(named, config.split, config.datasets), named)
        return
    cut = lookup(cuts, config.document, "config.data.document")
    for path in files(config):
        form = formats.identify(path, config.format)
        _check_fields(path, form, config)
        with contents.opened(path) as content:
            if form.has_fields:
                named = wanted(path=path)
                yield from records.joined(formats.READERS[form.name](content.stream, named), named)
            else:
                yield from cut(content.stream, path)


# Where to count rows that hold no text; None stops at the first.
BAD_ROWS: dict[str, Callable[[reports.Report], reports.Report | None]] = {
    "fail": lambda report: None,
    "skip": lambda report: report,
}


def size_bytes(config: SourceConfig) -> int:
    """The size of a source's files as they lie on disk."""
    return sum(path.stat().st_size for path in files(config))


def fingerprint(config: SourceConfig) -> str:
    """What a source holds: its files' contents and sizes in order, and how they are cut; not where they lie."""
    import xxhash

    digest = xxhash.xxh3_128(b"source 1")
    for path in files(config):
        try:
            size = path.stat().st_size
            with open(path, "rb") as file:
                hashed = xxhash.xxh3_128()
                while block := file.read(1 << 22):
                    hashed.update(block)
        except OSError as error:
            raise InputError(f"config.data.path: cannot read {path} ({error.strerror})") from error
        digest.update(json.dumps(_reading(config, path, size)).encode())
        digest.update(hashed.digest())
    for name in ("format", "bad_rows"):
        if getattr(config, name) != getattr(SourceConfig, name):
            digest.update(json.dumps([name, getattr(config, name)]).encode())
    return digest.hexdigest()


def _reading(config: SourceConfig, path: Path, size: int) -> list[Any]:
    """How a file is read, for the fingerprint: the same as ever for a file that is read as ever."""
    suffix = "".join(path.suffixes[-1:])
    if config.path == "stdlib":
        return [config.part, False, suffix, size]
    if config.path.startswith(tfds.PREFIX):
        return [config.document, False, suffix, size, "tfds", config.field, config.split, config.group]
    form = formats.identify(path, config.format)
    lines, reading = form.name == "JSON lines", config.field if form.has_fields else config.document
    described: list[Any] = [reading, lines, suffix, size]
    if form.has_fields and (config.group or not lines):
        described += [_former_kind(path), config.group]
    if not _is_as_ever(path, form):
        described += ["formats 2", form.name, form.compressions, form.encoding]
    return described


# Until version 2 of the formats, names alone decided, as they were written.
_FORMER = {".jsonl": "JSON lines", ".ndjson": "JSON lines", ".tsv": "tsv", ".csv": "csv"}
_FORMER_COMPRESSIONS = {".gz": "gzip", ".xz": "xz", ".bz2": "bzip2", ".zst": "Zstandard"}


def _former_kind(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix in _FORMER_COMPRESSIONS else path.suffix


def _is_as_ever(path: Path, form: Format) -> bool:
    """Whether a file was read in the same way before version 2 of the formats."""
    former = [_FORMER_COMPRESSIONS[path.suffix]] if path.suffix in _FORMER_COMPRESSIONS else []
    if list(form.compressions) != former or form.encoding == "utf-32":
        return False
    if form.name != _FORMER.get(_former_kind(path), "text"):
        return False
    if ".csv" not in path.suffixes[-2:]:
        return True
    # Its first line decided between tabs and commas.
    with contents.opened(path) as content:
        return form.name == "csv" and b"\t" not in content.stream.readline()


def _whole(lines: io.BufferedReader, path: Path) -> Iterator[bytes]:
    pieces, size = [], 0
    for line in lines:
        pieces.append(line)
        size += len(line)
        if size > MAX_DOCUMENT_BYTES:
            raise InputError(
                f"{path} is one document of more than {MAX_DOCUMENT_BYTES >> 30} GiB; set config.data.document to "
                "paragraph or line"
            )
    yield b"".join(pieces)


def _every_line(lines: io.BufferedReader, path: Path) -> Iterator[bytes]:
    for line in lines:
        yield line.rstrip(b"\r\n")


def _each_line(lines: io.BufferedReader, path: Path) -> Iterator[bytes]:
    # Empty lines separate nothing here; they are not documents.
    return filter(None, _every_line(lines, path))


def _paragraphs(lines: io.BufferedReader, path: Path) -> Iterator[bytes]:
    paragraph: list[bytes] = []
    for line in lines:
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield b"".join(paragraph)
            paragraph = []
    if paragraph:
        yield b"".join(paragraph)


DOCUMENTS: dict[str, Callable[[io.BufferedReader, Path], Iterator[bytes]]] = {
    "file": _whole,
    "line": _each_line,
    "paragraph": _paragraphs,
}
ALIGNED = {**DOCUMENTS, "line": _every_line}
