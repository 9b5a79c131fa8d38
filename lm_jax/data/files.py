"""Text files as UTF-8 streams: decompressed, re-encoded from UTF-16 and UTF-32; other kinds of file are rejected.

The first bytes decide what a file is. The name decides only if they cannot: an empty or damaged .gz is still a .gz.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import dataclasses
import gzip
import io
import itertools
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lm_jax.core.config import InputError

_BLOCK = 1 << 17
# The largest window that `zstd --long` writes; the memory is allocated only for frames that declare such a window.
_ZSTANDARD_WINDOW = 1 << 31
# Nested compressions are harmless, but the limit stops files that decompress for ever.
_MOST_LAYERS = 4


class _BlockFile(io.RawIOBase):
    """A file that reads its content from an iterator of non-empty blocks; closing it closes their `sources`."""

    def __init__(self, blocks: Iterator[bytes], *sources: Any):
        self._blocks, self._sources, self._rest = blocks, sources, b""

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        for source in self._sources:
            source.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        # Fill the buffer unless the content ends, so that one `peek` sees enough bytes to identify the file.
        pieces, size = [], 0
        while size < len(buffer):
            block = self._rest or next(self._blocks, b"")
            if not block:
                break
            piece, self._rest = block[: len(buffer) - size], block[len(buffer) - size :]
            pieces.append(piece)
            size += len(piece)
        buffer[:size] = b"".join(pieces)
        return size


def _blocks(source: Any) -> Iterator[bytes]:
    return iter(lambda: source.read(_BLOCK), b"")


def _zstandard(source: Any) -> Iterator[bytes]:
    """Decompress consecutive Zstandard frames; the library's own reader ignores a truncated frame."""
    import zstandard

    library, frame = zstandard.ZstdDecompressor(max_window_size=_ZSTANDARD_WINDOW), None
    for block in _blocks(source):
        while block:
            frame = frame or library.decompressobj()
            try:
                output = frame.decompress(block)
            except zstandard.ZstdError as error:
                raise OSError(str(error)) from error
            if output:
                yield output
            block, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise EOFError("the last Zstandard frame is cut short")


def _transcoded(source: Any, encoding: str) -> Iterator[bytes]:
    """Re-encode text as UTF-8; invalid bytes become U+FFFD."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    for block in itertools.chain(_blocks(source), [b""]):
        if text := decoder.decode(block, final=not block):
            yield text.encode()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compression:
    """A compression format: opener of the decompressed content, suffixes of names, and possible first bytes."""

    open: Callable[[Any], Any]
    suffixes: tuple[str, ...]
    magics: tuple[bytes, ...]


COMPRESSIONS: dict[str, Compression] = {
    "gzip": Compression(open=gzip.open, suffixes=(".gz", ".gzip", ".bgz"), magics=(b"\x1f\x8b\x08",)),
    "xz": Compression(open=lzma.LZMAFile, suffixes=(".xz", ".lzma"), magics=(b"\xfd7zXZ\0",)),
    "bzip2": Compression(
        open=bz2.BZ2File,
        suffixes=(".bz2",),
        # Text may begin with BZh9, but not followed by digits of pi (in an empty file, of sqrt(pi)).
        magics=tuple(b"BZh%d%b" % (n, mark) for n in range(1, 10) for mark in (b"1AY&SY", b"\x17rE8P\x90")),
    ),
    "Zstandard": Compression(
        open=lambda stream: _BlockFile(_zstandard(stream)),
        suffixes=(".zst", ".zstd"),
        # A frame, or one of the sixteen kinds of skippable frame that pzstd writes first.
        magics=(b"\x28\xb5\x2f\xfd", *(bytes([0x50 + n]) + b"\x2a\x4d\x18" for n in range(16))),
    ),
}

_COMPRESSION_SUFFIXES = {suffix: name for name, entry in COMPRESSIONS.items() for suffix in entry.suffixes}
_UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError)

_UNPACK = "unpack it and name the files in it, or their folder"
_CONVERT = "save its text as .jsonl, .tsv, .csv or plain text"
_DECOMPRESS = "decompress it, or compress it as .gz, .xz, .bz2 or .zst"
_NO_TEXT = "name files of text"


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A kind of file that is not text: its name in messages, advice, suffixes, and first bytes (under any name)."""

    name: str
    advice: str
    suffixes: tuple[str, ...] = ()
    magics: tuple[bytes, ...] = ()


_TAR = Foreign("a tar archive", _UNPACK, (".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst"))
_UTF16 = Foreign("UTF-16 without a byte order mark", "convert it with iconv -f UTF-16LE -t UTF-8 (or -f UTF-16BE)")
# Suffixes that are also language codes (corpus.pt, corpus.br) are not listed.
FOREIGN: tuple[Foreign, ...] = (
    _TAR,
    Foreign("a Word document", _CONVERT, (".docx",)),
    Foreign("an Excel workbook", _CONVERT, (".xlsx",)),
    Foreign("a PowerPoint presentation", _CONVERT, (".pptx",)),
    Foreign("an OpenDocument file", _CONVERT, (".odt", ".ods", ".odp")),
    Foreign("an EPUB book", _CONVERT, (".epub",)),
    Foreign("an archive of NumPy arrays", _CONVERT, (".npz",)),
    Foreign("a zip archive", _UNPACK, (".zip",), (b"PK\3\4", b"PK\5\6", b"PK\7\x08")),
    Foreign("a 7-Zip archive", _UNPACK, (".7z",), (b"7z\xbc\xaf\x27\x1c",)),
    Foreign("a RAR archive", _UNPACK, (".rar",), (b"Rar!\x1a\x07",)),
    Foreign("a Parquet table", _CONVERT, (".parquet",), (b"PAR1",)),
    Foreign("an Arrow table", _CONVERT, (".arrow", ".feather"), (b"ARROW1", b"FEA1")),
    Foreign("an ORC table", _CONVERT, (".orc",)),
    Foreign("an Avro file", _CONVERT, (".avro",), (b"Obj\1",)),
    Foreign("an HDF5 file", _CONVERT, (".h5", ".hdf5"), (b"\x89HDF\r\n\x1a\n",)),
    Foreign("a SQLite database", _CONVERT, (".sqlite", ".sqlite3"), (b"SQLite format 3\0",)),
    Foreign("a NumPy array", _CONVERT, (".npy",), (b"\x93NUMPY",)),
    Foreign("a Python pickle", _CONVERT, (".pkl", ".pickle"), (b"\x80\4\x95", b"\x80\5\x95")),
    Foreign("a file of weights", _NO_TEXT, (".safetensors",)),
    Foreign(
        "a file of TensorFlow examples", "prepare it as a dataset and name tfds:NAME", (".tfrecord", ".array_record")
    ),
    Foreign("a PDF document", _CONVERT, (".pdf",), (b"%PDF-",)),
    Foreign("a document of an old Office format", _CONVERT, (), (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",)),
    Foreign("an RTF document", _CONVERT, (".rtf",), (b"{\\rtf",)),
    Foreign("a picture", _NO_TEXT, (), (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")),
    Foreign("a program", _NO_TEXT, (), (b"\x7fELF",)),
    Foreign("LZ4 data", _DECOMPRESS, (".lz4",), (b"\4\x22\x4d\x18",)),
    Foreign("lzip data", _DECOMPRESS, (".lz",), (b"LZIP\1",)),
    Foreign("data of Unix compress", _DECOMPRESS, (".z",), (b"\x1f\x9d",)),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Content:
    """The content of an open file.

    Attributes:
      stream: the content, decompressed and re-encoded as UTF-8.
      compressions: names of the compressions, the outermost first.
      encoding: "utf-16" or "utf-32" if the text was re-encoded, else empty.
    """

    stream: io.BufferedReader
    compressions: tuple[str, ...]
    encoding: str


def kind(path: Path) -> str:
    """Return the suffix of a file's name in lower case, without suffixes of compression."""
    name = path.name.lower()
    while any(name.endswith(suffix) for suffix in _COMPRESSION_SUFFIXES):
        name = name.removesuffix(Path(name).suffix)
    return Path(name).suffix


def refuse_name(path: Path) -> None:
    """Raise InputError for a file whose suffix is that of a kind of file other than text."""
    if (foreign := _foreign_name(path)) is not None:
        raise InputError(f"config.data.path: {path} is {kind(path)}, {foreign.name}; {foreign.advice}")


def is_text(path: Path) -> bool:
    """Whether a file is text, by its name and first bytes; True for a damaged file, which raises an error when read."""
    if _foreign_name(path) is not None:
        return False
    try:
        with contextlib.closing(_opened(path)[0]) as stream:
            start = stream.peek(4096)[:4096]
    except _UNREADABLE:
        return True
    return _foreign(start) is None and (b"\0" not in start or bool(_encoding(start)))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Content]:
    """Open a file's content for reading.

    Raises:
      InputError: the file is not text, or it is damaged; also raised while it is read.
    """
    try:
        stream, compressions = _opened(path)
        with contextlib.closing(stream):
            start = stream.peek(4096)[:4096]
            if (foreign := _foreign(start)) is not None:
                within = f" within {' within '.join(reversed(compressions))}" if compressions else ""
                raise InputError(
                    f"config.data.path: {path} is {foreign.name}{within}, judging by its first bytes; {foreign.advice}"
                )
            encoding = _encoding(start)
            if encoding:
                stream = _buffered(_BlockFile(_transcoded(stream, encoding), stream))
            yield Content(stream=stream, compressions=compressions, encoding=encoding)
    except InputError:
        raise
    except _UNREADABLE as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(
            f"config.data.path: cannot read {path} ({reason}); the file is damaged, cut short or not readable"
        ) from error


def _opened(path: Path) -> tuple[io.BufferedReader, tuple[str, ...]]:
    stream = open(path, "rb")  # noqa: SIM115 - closed by the caller
    compressions: list[str] = []
    try:
        while name := _compression(stream.peek(16)) or (
            "" if compressions else _COMPRESSION_SUFFIXES.get(path.suffix.lower())
        ):
            if len(compressions) == _MOST_LAYERS:
                raise InputError(
                    f"config.data.path: {path} is compressed more than {_MOST_LAYERS} times; {_DECOMPRESS}"
                )
            compressions.append(name)
            content = COMPRESSIONS[name].open(stream)
            stream = _buffered(_BlockFile(_blocks(content), content, stream))
    except BaseException:
        stream.close()
        raise
    return stream, tuple(compressions)


def _buffered(raw: Any) -> io.BufferedReader:
    return io.BufferedReader(raw, _BLOCK)


def _compression(start: bytes) -> str:
    return next((name for name, entry in COMPRESSIONS.items() if start.startswith(entry.magics)), "")


def _encoding(start: bytes) -> str:
    """Return the encoding by the byte order mark, empty without one."""
    # UTF-32 first: its little-endian mark begins with that of UTF-16.
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    return "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ""


def _foreign_name(path: Path) -> Foreign | None:
    suffix = kind(path)
    return next((foreign for foreign in FOREIGN if suffix in foreign.suffixes), None)


def _foreign(start: bytes) -> Foreign | None:
    if _is_tar(start):
        return _TAR
    if _is_utf16(start):
        return _UTF16
    return next((foreign for foreign in FOREIGN if foreign.magics and start.startswith(foreign.magics)), None)


def _is_tar(start: bytes) -> bool:
    """Whether the first block holds its checksum, as in every tar format; old formats have no magic number."""
    digits = start[148:156].strip(b" \0")
    if len(start) < 512 or not digits or digits.strip(b"01234567"):
        return False
    return sum(start[:148]) + 8 * ord(" ") + sum(start[156:512]) == int(digits, 8)


def _is_utf16(start: bytes) -> bool:
    """Whether nearly every second byte is zero and few other bytes are, as in Latin text in UTF-16."""
    if len(start) < 8 or _encoding(start):
        return False
    halves = [start[half::2].count(0) / len(start[half::2]) for half in (0, 1)]
    return max(halves) > 0.9 and min(halves) < 0.1
