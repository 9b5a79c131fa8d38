import gzip
import itertools
import json
import lzma

import pytest
import zstandard

from lm_jax.core.config import InputError
from lm_jax.data import sources
from lm_jax.data.sources import SourceConfig

COMPRESS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
TEXT = "First line.\r\nSecond line.\n\n\nThird, 第三。\n".encode()


def read(path, **settings):
    return list(sources.documents(SourceConfig(path=str(path), **settings)))


@pytest.mark.parametrize("suffix", COMPRESS)
def test_plain_text_is_read_compressed_or_not(tmp_path, suffix):
    path = tmp_path / f"text.txt{suffix}"
    path.write_bytes(COMPRESS[suffix](TEXT))

    assert read(path) == [TEXT]
    assert read(path, document="line") == [b"First line.", b"Second line.", "Third, 第三。".encode()]
    assert read(path, document="paragraph") == [b"First line.\r\nSecond line.\n", "Third, 第三。\n".encode()]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_json_lines_are_read_compressed_or_not(tmp_path, suffix):
    lines = [{"id": 1, "body": "one\ntwo"}, {"body": "三"}]
    data = "\n\n".join(json.dumps(line) for line in lines).encode() + b"\n"
    path = tmp_path / f"rows.jsonl{suffix}"
    path.write_bytes(COMPRESS[suffix](b"\xef\xbb\xbf" + data))

    assert read(path, field="body") == ["one\ntwo", "三"]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_several_compressed_streams_in_one_file_are_all_read(tmp_path, suffix):
    path = tmp_path / f"text.txt{suffix}"
    path.write_bytes(COMPRESS[suffix](b"one\n") + COMPRESS[suffix](b"two\n"))

    assert read(path) == [b"one\ntwo\n"]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_file_cut_short_is_named(tmp_path, suffix):
    path = tmp_path / f"text.txt{suffix}"
    data = COMPRESS[suffix](bytes(range(256)) * 40 + TEXT)
    path.write_bytes(data[: len(data) - 12])

    with pytest.raises(InputError, match=f"config.data.path: cannot read .*text.txt{suffix}") as caught:
        read(path)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path, suffix):
    path = tmp_path / f"text.txt{suffix}"
    path.write_bytes(b"this is not compressed at all")

    with pytest.raises(InputError, match="cannot read"):
        read(path)


def test_globs_are_sorted_and_lists_keep_their_order(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(name)

    assert read(tmp_path / "*.txt") == [b"a.txt", b"b.txt"]
    assert read(f"{tmp_path}/c.md, {tmp_path}/*.txt,{tmp_path}/a.txt") == [b"c.md", b"a.txt", b"b.txt"]


def test_names_with_commas_and_brackets_are_files_first(tmp_path):
    (tmp_path / "a,b [1].txt").write_text("odd")

    assert read(tmp_path / "a,b [1].txt") == [b"odd"]


def test_utf16_is_read_by_its_byte_order_mark(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("eins\nzwei ü\n".encode("utf-16"))

    assert read(path, document="line") == [b"eins", "zwei ü".encode()]


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        ("missing.txt", None, {}, "there is no file .*missing.txt"),
        ("*.nothing", None, {}, "no file matches"),
        (
            "rows.jsonl",
            '{"text": "a"}\n{"id": 1, "body": "b"}\n',
            {},
            "line 2 has no field 'text'; it has 'id', 'body'",
        ),
        ("rows.jsonl", '{"text": "a"}\n\n{"text": "b"\n', {}, "rows.jsonl line 3 is not JSON"),
        ("rows.jsonl", '{"text": 5}\n', {}, "line 1: field 'text' is a int"),
        ("rows.jsonl", "[1]\n", {}, "line 1 is a list"),
        ("rows.jsonl", "[" * 100_000 + "\n", {}, "line 1 is not JSON"),
        ("rows.jsonl", b'{"text": "\xff"}\n', {}, "line 1 is not JSON"),
        ("text.txt", "a", {"document": "page"}, "config.data.document is 'page'.*paragraph"),
        ("rows.parquet", "PAR1", {}, "is .parquet"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, name, content, settings, message):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path / name, **settings)

    assert "\n" not in str(caught.value)


def test_directories_empty_paths_and_unknown_parts_are_refused(tmp_path):
    with pytest.raises(InputError, match="is a directory"):
        read(tmp_path)
    with pytest.raises(InputError, match="config.data.path is ''"):
        read("")
    with pytest.raises(InputError, match="config.data.part is 'tests'"):
        read("stdlib", part="tests")


def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path):
    for folder, content in (("a", "same"), ("b", "same"), ("c", "Same")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t.txt").write_text(content)
    a, b, c = (sources.fingerprint(SourceConfig(path=str(tmp_path / name / "t.txt"))) for name in "abc")

    assert a == b != c
    assert a != sources.fingerprint(SourceConfig(path=str(tmp_path / "a" / "t.txt"), document="line"))
    # Only JSON lines have fields.
    assert a == sources.fingerprint(SourceConfig(path=str(tmp_path / "a" / "t.txt"), field="body"))


def test_the_standard_library_is_a_corpus():
    docs = list(itertools.islice(sources.documents(SourceConfig(part="docs")), 40))
    code = list(itertools.islice(sources.documents(SourceConfig(part="code")), 5))

    assert all(isinstance(document, str) and document for document in docs)
    assert any("abc.abstractmethod\n" in document for document in docs)
    assert all("import" in document or "def" in document or "=" in document for document in code)
    names = [str(path) for path in sources.files(SourceConfig())]
    assert not [name for name in names if "site-packages" in name or "/test/" in name]
    assert len(names) > 300
