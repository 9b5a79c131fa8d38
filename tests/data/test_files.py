"""The first bytes decide compression and encoding; files that are not text are refused under any name."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import numpy as np
import pytest
import zstandard

from lm_jax.core.config import InputError
from lm_jax.data import files, sources
from lm_jax.data.sources import SourceConfig


def read(path, **settings):
    return list(sources.documents(SourceConfig(path=str(path), **settings)))


def tar(**options):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        info = tarfile.TarInfo("a.txt")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"hello"))
    return buffer.getvalue()


def old_tar():
    """A tar archive without a magic number, as before POSIX."""
    header = bytearray(tar(format=tarfile.USTAR_FORMAT))
    header[257:265] = bytes(8)
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
    return bytes(header)


def written_bytes(write):
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def write_zip(buffer):
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "hello")


@pytest.mark.parametrize(
    "compress",
    [
        gzip.compress,
        lzma.compress,
        bz2.compress,
        zstandard.ZstdCompressor().compress,
        lambda data: b"\x50\x2a\x4d\x18\4\0\0\0skip" + zstandard.ZstdCompressor().compress(data),
        lambda data: gzip.compress(lzma.compress(data)),
    ],
)
def test_compression_is_detected_without_its_suffix(tmp_path, compress):
    for name, content in (("x.txt", b"one\ntwo\n"), ("X.TXT.GZ", b"one\ntwo\n"), ("x.jsonl", b'{"text": "one"}\n')):
        (tmp_path / name).write_bytes(compress(content))

    assert read(tmp_path / "x.txt") == read(tmp_path / "X.TXT.GZ") == [b"one\ntwo\n"]
    assert read(tmp_path / "x.jsonl") == ["one"]


@pytest.mark.parametrize("start", ["BZh9 is how bzip2 starts", "(\xb5/", "PK", "Rar!", "BM", "\x1f"])
def test_text_that_starts_like_a_compressed_file_is_text(tmp_path, start):
    (tmp_path / "x.txt").write_bytes(start.encode())

    assert read(tmp_path / "x.txt") == [start.encode()]


def test_zstandard_with_a_window_of_two_gibibytes_is_read(tmp_path):
    parameters = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = compressor.compress(b"far apart\n") + compressor.flush()
    # A decompressor with the usual limit of 128 MiB refuses this frame.
    assert zstandard.get_frame_parameters(data).window_size == 1 << 31
    (tmp_path / "x.txt.zst").write_bytes(data)

    assert read(tmp_path / "x.txt.zst") == [b"far apart\n"]


FOREIGN = {
    "tar": (tar(), "is a tar archive"),
    "old tar": (old_tar(), "is a tar archive"),
    "gzipped tar": (gzip.compress(tar()), "is a tar archive within gzip"),
    "zip": (written_bytes(write_zip), "is a zip archive"),
    "npz": (written_bytes(lambda buffer: np.savez(buffer, a=np.zeros(3))), "is a zip archive"),
    "npy": (written_bytes(lambda buffer: np.save(buffer, np.zeros(3))), "is a NumPy array"),
    "parquet": (b"PAR1\x15\0\x15", "is a Parquet table"),
    "compressed parquet": (lzma.compress(b"PAR1\x15\0\x15"), "is a Parquet table within xz"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\n", "is a PDF document"),
    "arrow": (b"ARROW1\0\0", "is an Arrow table"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4", "is a 7-Zip archive"),
    "rar": (b"Rar!\x1a\7\1\0", "is a RAR archive"),
    "doc": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is a document of an old Office format"),
    "rtf": (b"{\\rtf1\\ansi hello}", "is an RTF document"),
    "lz4": (b"\4\x22\x4d\x18\x64", "is LZ4 data"),
    "utf-16 without a mark": ("First line.\n".encode("utf-16-le"), "is UTF-16 without a byte order mark"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_files_that_are_not_text_are_refused_by_their_first_bytes(tmp_path, kind):
    content, message = FOREIGN[kind]
    for name in ("x.txt", "x", "x.jsonl"):
        (tmp_path / name).write_bytes(content)

        expected = f"config.data.path: .*{name} {message}, judging by its first bytes; "
        with pytest.raises(InputError, match=expected) as error:
            read(tmp_path / name)

        assert "\n" not in str(error.value)
        with pytest.raises(InputError, match=message):
            sources.fingerprint(SourceConfig(path=str(tmp_path / name)))
        assert not files.is_text(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.tar", "is .tar, a tar archive; unpack it"),
        ("x.tar.gz", "is .tar, a tar archive; unpack it"),
        ("x.TAR.XZ", "is .tar, a tar archive; unpack it"),
        ("x.tgz", "is .tgz, a tar archive; unpack it"),
        ("x.Zip", "is .zip, a zip archive; unpack it"),
        ("x.npz", "is .npz, an archive of NumPy arrays"),
        ("x.parquet.zst", "is .parquet, a Parquet table"),
        ("x.PDF", "is .pdf, a PDF document; save its text"),
        ("x.docx", "is .docx, a Word document"),
    ],
)
def test_files_that_are_not_text_are_refused_by_their_names(tmp_path, name, message):
    (tmp_path / name).write_text("any content")

    with pytest.raises(InputError, match=message):
        read(tmp_path / name)


def test_archives_in_a_directory_are_skipped_and_counted_under_any_name(tmp_path):
    for name, content in {
        "a.txt": b"a",
        "b.TGZ": b"x",
        "c.dat": tar(),
        "d": written_bytes(write_zip),
        "e.txt.gz": gzip.compress(tar()),
        "f": b"%PDF-1.4",
    }.items():
        (tmp_path / name).write_bytes(content)

    assert read(tmp_path) == [b"a"]
    assert sources.skipped(SourceConfig(path=str(tmp_path))) == 5


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_byte_order_mark_decides_the_encoding_of_every_format(tmp_path, encoding):
    contents = {
        "t.txt": "eins\nzwei ü\n",
        "r.jsonl": '{"text": "eins"}\n{"text": "zwei ü"}\n',
        "r.json": '[{"text": "eins"},\n {"text": "zwei ü"}]',
        "r.tsv": "id\ttext\n1\teins\n2\tzwei ü\n",
        "r.csv": 'id,text\r\n1,eins\r\n2,"zwei ü"\r\n',
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content.encode(encoding))
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode(encoding)))

    for name in contents:
        for path in (tmp_path / name, tmp_path / f"{name}.gz"):
            texts = [text if isinstance(text, str) else text.decode() for text in read(path, document="line")]
            assert texts == ["eins", "zwei ü"]
    assert sources.skipped(SourceConfig(path=str(tmp_path))) == 0


def test_a_file_of_only_a_byte_order_mark_is_an_empty_document(tmp_path):
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        (tmp_path / "x.txt").write_bytes("".encode(encoding))
        (document,) = read(tmp_path / "x.txt")
        assert document.decode("utf-8-sig") == ""
