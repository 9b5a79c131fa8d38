"""Raw documents: files of text, JSON lines and tables, TFDS datasets, and Python's own library as the corpus at hand.

Plain text is yielded as bytes, because what its bytes mean is for cleaning to decide; JSON is text already.
The order of documents is the order of the files named (of a directory: by path), and within one file its own.
"""

from __future__ import annotations

import bz2
import codecs
import dataclasses
import glob
import gzip
import io
import json
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lm_jax.core.config import InputError, lookup
from lm_jax.data import prepared, records, stdlib
from lm_jax.data.records import MAX_DOCUMENT_BYTES


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Which text.

    Attributes:
      path: "stdlib", "tfds:NAME[/CONFIG][:VERSION]", or files, globs and directories separated by commas: plain text,
        .jsonl, .tsv or .csv, each also as .gz, .xz, .bz2 or .zst. Of a directory, all that is text.
      field: what holds the text: the field of a JSON line, the feature of a dataset, the column of a table, by its name
        in the first line or, where a table has no such line, by its number from 0.
      group: the field or column whose value neighbouring records of one document share; empty where each record is a
        document. Their texts are joined by line breaks.
      document: what one document of plain text is: "file", "line" or "paragraph" (cut at empty lines).
      part: of stdlib: "docs" (documentation strings and topics), "code" or "all".
      split: of tfds: its split, such as "train" or "train[:10%]".
      datasets: of tfds: the folder of all datasets; empty for $TFDS_DATA_DIR, else ~/tensorflow_datasets.
      weight: in a mixture: its share of the rows is this over the sum of all; 0 in all of them leaves it to
        `temperature`.
    """

    path: str = "stdlib"
    field: str = "text"
    group: str = ""
    document: str = "file"
    part: str = "docs"
    split: str = "train"
    datasets: str = ""
    weight: float = 0.0


def files(config: SourceConfig) -> list[Path]:
    """The files of a source, each once, in the order they are read: as listed, globs and directories sorted."""
    return _listed(config)[0]


def skipped(config: SourceConfig) -> int:
    """How many files of the source's directories are hidden or no text."""
    return _listed(config)[1]


def _listed(config: SourceConfig) -> tuple[list[Path], int]:
    if config.path == "stdlib":
        return lookup(stdlib.PARTS, config.part, "config.data.part").files(), 0
    if config.path.startswith(prepared.PREFIX):
        return prepared.files(config.path, config.split, config.datasets), 0
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
            inside, others = _below(path) if path.is_dir() else ([path], 0)
            found.update(dict.fromkeys(inside))
            passed_over += others
    if not found:
        raise InputError(
            f"config.data.path is {config.path!r}; expected a file, a glob, a directory, tfds:NAME or 'stdlib'"
        )
    for path in found:
        if path.suffix in UNREADABLE:
            raise InputError(
                f"config.data.path: {path} is {path.suffix}; expected text, .jsonl, .tsv or .csv, also as "
                f"{', '.join(OPENERS)}"
            )
    return list(found), passed_over


def _below(directory: Path) -> tuple[list[Path], int]:
    """The text files of a directory and those below it, by path, and how many others lie there."""
    found, others = [], 0
    for place, folders, names in os.walk(directory):
        others += sum(name.startswith(".") for name in names)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(place) / name for name in names if not name.startswith(".")):
            if path.suffix in UNREADABLE or not path.is_file() or not _is_text(path):
                others += 1
            else:
                found.append(path)
    if not found:
        raise InputError(f"config.data.path: {directory} is a directory without any text file ({others} others)")
    return sorted(found), others


def _is_text(path: Path) -> bool:
    """Whether a file starts like text: no zero bytes, save those of UTF-16. What cannot be opened is for the reader."""
    try:
        with _opened(path) as stream:
            start = stream.read(4096)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        return True
    return b"\0" not in start or start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


def documents(config: SourceConfig) -> Iterator[bytes | str]:
    """Every raw document of a source, streamed.

    Raises:
      InputError: a missing or damaged file, a line that is not JSON, a field that is not there.
    """
    if config.path == "stdlib":
        yield from lookup(stdlib.PARTS, config.part, "config.data.part").documents()
        return
    if config.path.startswith(prepared.PREFIX):
        examples = prepared.texts(config.path, config.field, config.group, config.split, config.datasets)
        yield from records.joined(examples, Path(config.path), bool(config.group))
        return
    cut = lookup(DOCUMENTS, config.document, "config.data.document")
    for path in files(config):
        try:
            with _opened(path) as stream:
                read = RECORDS.get(kind(path))
                if read is not None:
                    yield from read(_lines(stream), path, config.field, config.group)
                else:
                    yield from cut(_lines(stream), path)
        except InputError:
            raise
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise InputError(
                f"config.data.path: cannot read {path} ({reason}); the file is damaged, cut short or not readable"
            ) from error


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
        reading = config.field if kind(path) in RECORDS else config.document
        if config.path == "stdlib":
            reading = config.part
        described: list[Any] = [reading, is_json_lines(path), "".join(path.suffixes[-1:]), size]
        if config.path.startswith(prepared.PREFIX):
            described += ["tfds", config.field, config.split, config.group]
        elif kind(path) in RECORDS and (config.group or not is_json_lines(path)):
            described += [kind(path), config.group]
        digest.update(json.dumps(described).encode())
        digest.update(hashed.digest())
    return digest.hexdigest()


def is_json_lines(path: Path) -> bool:
    """Whether a file holds JSON lines, by its name less the compression."""
    return kind(path) in (".jsonl", ".ndjson")


def kind(path: Path) -> str:
    """The suffix of a file's name less the compression."""
    name = path.name.removesuffix(path.suffix) if path.suffix in OPENERS else path.name
    return Path(name).suffix


# What is not one of these is plain text.
RECORDS: dict[str, Callable[[Iterator[bytes], Path, str, str], Iterator[bytes | str]]] = {
    ".jsonl": records.json_lines,
    ".ndjson": records.json_lines,
    ".tsv": records.table,
    ".csv": records.table,
}


def _lines(stream: io.BufferedIOBase) -> Iterator[bytes]:
    """Lines of plain text; UTF-16 with its byte order mark is turned into UTF-8 on the way."""
    first = stream.readline()
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        rest = io.BytesIO(first + stream.read())
        for line in io.TextIOWrapper(rest, "utf-16", errors="replace", newline="\n"):
            yield line.encode()
        return
    if first:
        yield first
    yield from stream


def _whole(lines: Iterator[bytes], path: Path) -> Iterator[bytes]:
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


def _each_line(lines: Iterator[bytes], path: Path) -> Iterator[bytes]:
    for line in lines:
        # Empty lines separate nothing here; they are not documents.
        if line := line.rstrip(b"\r\n"):
            yield line


def _paragraphs(lines: Iterator[bytes], path: Path) -> Iterator[bytes]:
    paragraph: list[bytes] = []
    for line in lines:
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield b"".join(paragraph)
            paragraph = []
    if paragraph:
        yield b"".join(paragraph)


DOCUMENTS: dict[str, Callable[[Iterator[bytes], Path], Iterator[bytes]]] = {
    "file": _whole,
    "line": _each_line,
    "paragraph": _paragraphs,
}


class _Zstandard(io.RawIOBase):
    """Zstandard frames, one after another. The library's own reader ends quietly where a frame is cut short."""

    def __init__(self, path: Path):
        import zstandard

        self._error = zstandard.ZstdError
        self._new = zstandard.ZstdDecompressor().decompressobj
        self._file = open(path, "rb")  # noqa: SIM115 - closed in close()
        self._frame, self._ready, self._input = None, b"", b""

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer) -> int:
        while not self._ready:
            block = self._input or self._file.read(1 << 17)
            self._input = b""
            if not block:
                if self._frame is not None:
                    raise EOFError("the last Zstandard frame is cut short")
                return 0
            self._frame = self._frame or self._new()
            try:
                self._ready = self._frame.decompress(block)
            except self._error as error:
                raise OSError(str(error)) from error
            if self._frame.eof:
                self._input, self._frame = self._frame.unused_data, None
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


OPENERS: dict[str, Callable[[Path], io.BufferedIOBase]] = {
    ".gz": lambda path: gzip.open(path, "rb"),
    ".xz": lambda path: lzma.open(path, "rb"),
    ".bz2": lambda path: bz2.open(path, "rb"),
    ".zst": lambda path: io.BufferedReader(_Zstandard(path), 1 << 17),
}
# Anything else is taken for text; these never are.
UNREADABLE = (".zip", ".tar", ".tgz", ".7z", ".parquet", ".arrow", ".npy", ".npz", ".pdf", ".docx", ".epub")


def _opened(path: Path) -> io.BufferedIOBase:
    return OPENERS[path.suffix](path) if path.suffix in OPENERS else open(path, "rb")
