"""Raw documents: plain text and JSON lines, compressed or not, and Python's own library as the corpus at hand.

Plain text is yielded as bytes, because what its bytes mean is for cleaning to decide; JSON is text already.
The order of documents is the order of the files named, and within one file its own.
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

from lm_jax.core.config import InputError, lookup
from lm_jax.data import stdlib

# A document is held in memory several times over while it is cleaned.
MAX_DOCUMENT_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Which text.

    Attributes:
      path: "stdlib", or files and globs separated by commas: plain text or .jsonl, each also as .gz, .xz, .bz2 or .zst.
      field: the field of a JSON line that holds the text.
      document: what one document of plain text is: "file", "line" or "paragraph" (cut at empty lines).
      part: of stdlib: "docs" (documentation strings and topics), "code" or "all".
    """

    path: str = "stdlib"
    field: str = "text"
    document: str = "file"
    part: str = "docs"


def files(config: SourceConfig) -> list[Path]:
    """The files of a source, each once, in the order they are read: as listed, globs sorted."""
    if config.path == "stdlib":
        return lookup(stdlib.PARTS, config.part, "config.data.part").files()
    whole = os.path.expanduser(config.path)
    patterns = [whole] if os.path.exists(whole) else [part.strip() for part in whole.split(",") if part.strip()]
    found: dict[Path, None] = {}
    for pattern in patterns:
        pattern = os.path.expanduser(pattern)
        # A file whose name looks like a pattern is still that file.
        matches = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        matches = [match for match in matches if glob.escape(pattern) == pattern or not os.path.isdir(match)]
        if not matches:
            what = "no file matches" if glob.has_magic(pattern) else "there is no file"
            raise InputError(
                f"config.data.path: {what} {pattern} (seen from {os.getcwd()}); give a file, a glob or 'stdlib'"
            )
        found.update(dict.fromkeys(Path(match) for match in matches))
    if not found:
        raise InputError(f"config.data.path is {config.path!r}; expected a file, a glob or 'stdlib'")
    for path in found:
        if path.is_dir():
            raise InputError(f"config.data.path: {path} is a directory; name its files, such as {path}/*.txt")
        if path.suffix in UNREADABLE:
            raise InputError(
                f"config.data.path: {path} is {path.suffix}; expected text or .jsonl, also as {', '.join(OPENERS)}"
            )
    return list(found)


def documents(config: SourceConfig) -> Iterator[bytes | str]:
    """Every raw document of a source, streamed.

    Raises:
      InputError: a missing or damaged file, a line that is not JSON, a field that is not there.
    """
    if config.path == "stdlib":
        yield from lookup(stdlib.PARTS, config.part, "config.data.part").documents()
        return
    cut = lookup(DOCUMENTS, config.document, "config.data.document")
    for path in files(config):
        try:
            with _opened(path) as stream:
                if is_json_lines(path):
                    yield from _json_lines(stream, path, config.field)
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
        reading = config.field if is_json_lines(path) else config.document
        if config.path == "stdlib":
            reading = config.part
        digest.update(json.dumps([reading, is_json_lines(path), "".join(path.suffixes[-1:]), size]).encode())
        digest.update(hashed.digest())
    return digest.hexdigest()


def is_json_lines(path: Path) -> bool:
    """Whether a file holds JSON lines, by its name less the compression."""
    name = path.name.removesuffix(path.suffix) if path.suffix in OPENERS else path.name
    return name.endswith((".jsonl", ".ndjson"))


def _json_lines(stream: io.BufferedIOBase, path: Path, field: str) -> Iterator[str]:
    for number, line in enumerate(stream, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"config.data.path: {path} line {number} is not JSON ({error}); expected one object a line"
            ) from error
        if not isinstance(record, dict):
            raise InputError(f"config.data.path: {path} line {number} is a {type(record).__name__}; expected an object")
        if field not in record:
            raise InputError(
                f"{path} line {number} has no field {field!r}; it has {', '.join(map(repr, record)) or 'none'}: "
                "set config.data.field"
            )
        if not isinstance(record[field], str):
            raise InputError(
                f"{path} line {number}: field {field!r} is a {type(record[field]).__name__}; expected text "
                "(config.data.field)"
            )
        yield record[field]


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
