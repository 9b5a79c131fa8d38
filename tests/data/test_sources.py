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
def test_a_truncated_file_is_reported_by_name(tmp_path, suffix):
    path = tmp_path / f"text.txt{suffix}"
    data = COMPRESS[suffix](bytes(range(256)) * 40 + TEXT)
    path.write_bytes(data[: len(data) - 12])

    with pytest.raises(InputError, match=f"config.data.path: cannot read .*text.txt{suffix}") as caught:
        read(path)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_file_without_the_compression_of_its_name_is_refused(tmp_path, suffix):
    path = tmp_path / f"text.txt{suffix}"
    path.write_bytes(b"this is not compressed at all")

    with pytest.raises(InputError, match="cannot read"):
        read(path)


def test_globs_are_sorted_and_lists_keep_their_order(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(name)

    assert read(tmp_path / "*.txt") == [b"a.txt", b"b.txt"]
    assert read(f"{tmp_path}/c.md, {tmp_path}/*.txt,{tmp_path}/a.txt") == [b"c.md", b"a.txt", b"b.txt"]


def test_existing_files_may_have_commas_and_brackets_in_their_names(tmp_path):
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
def test_unreadable_sources_are_reported_in_one_line(tmp_path, name, content, settings, message):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path / name, **settings)

    assert "\n" not in str(caught.value)


TABLE = 'id\tbook\tmodern\r\n1\tA\t"Hi," he said\r\n2\tA\t第二。\r\n\r\n3\tB\t"open\r\n'.encode()


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_column_of_a_table_is_read_by_name_compressed_or_not(tmp_path, suffix):
    path = tmp_path / f"rows.tsv{suffix}"
    path.write_bytes(COMPRESS[suffix](b"\xef\xbb\xbf" + TABLE))

    # Quotes are text: real tables open quotes that they never close.
    assert read(path, field="modern") == [b'"Hi," he said', "第二。".encode(), b'"open']
    assert read(path, field="id") == [b"1", b"2", b"3"]


def test_a_column_of_a_table_without_names_is_read_by_number(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_bytes(b"gj04\t1\t\tThe sailors rode.\ngj04\t0\t*\tThe sailors rided.\n")

    assert read(path, field="3") == [b"The sailors rode.", b"The sailors rided."]
    assert read(path, field="3", group="0") == [b"The sailors rode.\nThe sailors rided."]


def test_neighbouring_records_of_a_group_are_one_document(tmp_path):
    (tmp_path / "rows.tsv").write_bytes(TABLE)
    lines = [{"book": 1, "text": "a"}, {"book": 1, "text": "b"}, {"book": 2, "text": "c"}, {"book": 1, "text": "d"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    assert read(tmp_path / "rows.tsv", field="modern", group="book")[0] == '"Hi," he said\n第二。'.encode()
    assert read(tmp_path / "rows.jsonl", group="book") == ["a\nb", "c", "d"]


def test_comma_separated_values_are_unquoted(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes('id,text\r\n1,"one, ""two""\nthree"\r\n2,四\r\n'.encode())

    assert read(path) == [b'one, "two"\nthree', "四".encode()]


@pytest.mark.parametrize(
    ("name", "field", "rows"),
    [
        ("zh_classical_modern/pairs_dev.tsv.xz", "modern", 91549),
        ("cola/in_domain_train.tsv.gz", "3", 8551),
        ("stsb/train.tsv.gz", "sentence2", 5655),
        ("mrpc/msr-para-train.tsv.gz", "#1 String", 3576),
        ("wnli/val.tsv", "1", None),
    ],
)
def test_common_data_sets_are_read_completely(shared_data, name, field, rows):
    texts = read(shared_data / name, field=field)

    assert rows is None or len(texts) == rows
    assert all(text.decode() for text in texts)


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        ("t.tsv", "en\tzh\na\tb\n", {}, "line 1 has no column 'text'; it has 'en', 'zh': set config.data.field"),
        ("t.tsv", "en\tzh\na\tb\n", {"field": "2"}, "line 1 has 2 columns and no column 2, counted from 0"),
        ("t.tsv", "en\tzh\na\tb\n\na\n", {"field": "en"}, "line 4 has 1 column, but line 1 has 2: 'en', 'zh'"),
        ("t.tsv", "en\tzh\n", {"field": "en", "group": "book"}, "no column 'book'; .*config.data.group"),
        ("t.csv", 'text\n"a"b\n', {}, "t.csv line 2 is not a row of a table"),
        ("t.jsonl", '{"text": "a"}\n', {"group": "book"}, "line 1 has no field 'book'; .*config.data.group"),
    ],
)
def test_a_missing_column_is_reported_in_one_line(tmp_path, name, content, settings, message):
    (tmp_path / name).write_text(content)

    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path / name, **settings)

    assert "\n" not in str(caught.value)


def test_a_directory_stands_for_all_text_files_below_it(tmp_path):
    for name in ("b/2.txt", "b/1.jsonl", "a.txt", ".hidden/x.txt", "b/.y.txt", "c/pages.zip", "c/deep/d.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": name}) if name.endswith(".jsonl") else name)
    (tmp_path / "picture").write_bytes(bytes(100))
    (tmp_path / "e.txt.gz").write_bytes(gzip.compress(b"e"))
    (tmp_path / "zero.gz").write_bytes(gzip.compress(bytes(9)))

    assert read(tmp_path) == [b"a.txt", "b/1.jsonl", b"b/2.txt", b"c/deep/d.md", b"e"]
    # b/.y.txt, c/pages.zip, picture and zero.gz; hidden folders are not searched.
    assert sources.skipped(SourceConfig(path=str(tmp_path))) == 4
    assert read(f"{tmp_path}/c,{tmp_path}/*.txt,{tmp_path}/b") == [b"c/deep/d.md", b"a.txt", "b/1.jsonl", b"b/2.txt"]


def test_empty_directories_empty_paths_and_unknown_parts_are_refused(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match="is a directory without any text file \\(1 others\\)"):
        read(tmp_path)
    with pytest.raises(InputError, match="config.data.path is ''"):
        read("")
    with pytest.raises(InputError, match="config.data.part is 'tests'"):
        read("stdlib", part="tests")


def test_the_fingerprint_depends_on_content_and_not_on_the_path(tmp_path):
    for folder, content in (("a", "same"), ("b", "same"), ("c", "Same")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t.txt").write_text(content)
    a, b, c = (sources.fingerprint(SourceConfig(path=str(tmp_path / name / "t.txt"))) for name in "abc")

    assert a == b != c
    assert a != sources.fingerprint(SourceConfig(path=str(tmp_path / "a" / "t.txt"), document="line"))
    # The field matters for records only.
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
