"""The format of a file: by its name, by its content if the name does not decide, or by `config.data.format`."""

import gzip
import json

import pytest

from lm_jax.core.config import InputError
from lm_jax.data import sources, tfds
from lm_jax.data.clean import report as reports
from lm_jax.data.config import DataConfig
from lm_jax.data.sources import SourceConfig

RECORDS = [{"id": 1, "body": "one\ntwo", "tags": [["x"], {}]}, {"body": "三 }{"}]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS)
ARRAY = json.dumps(RECORDS)
PRETTY = json.dumps(RECORDS, indent=2, ensure_ascii=False)
OBJECTS = "\n".join(json.dumps(record, indent=2) for record in RECORDS)
TEXTS = ["one\ntwo", "三 }{"]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def source(path, **settings):
    return SourceConfig(path=str(path), **settings)


def read(path, **settings):
    return list(sources.documents(source(path, **settings)))


@pytest.mark.parametrize(
    "name", ["r.json", "r.json.gz", "R.JSON", "r", "r.data", "r.txt", "r.txt.gz", "r.jsonl", "r.NDJSON", "R.JsonLines"]
)
def test_json_lines_are_read_under_any_name(tmp_path, name):
    for lines in (LINES, LINES.rstrip(), LINES.replace("\n", "  \r\n\r\n"), "\n\n" + LINES):
        path = write(tmp_path / name, gzip.compress(lines.encode()) if name.endswith(".gz") else lines)

        assert read(path, field="body") == TEXTS


@pytest.mark.parametrize("content", [ARRAY, PRETTY, OBJECTS, "\ufeff\n" + PRETTY], ids=range(4))
@pytest.mark.parametrize("name", ["r.json", "r.JSON.gz", "r", "r.txt"])
def test_arrays_and_objects_over_several_lines_are_read_under_any_name(tmp_path, name, content):
    content = content.encode()
    path = write(tmp_path / name, gzip.compress(content) if name.endswith(".gz") else content)

    assert read(path, field="body") == TEXTS
    assert read(path, field="body", group="body") == TEXTS


@pytest.mark.parametrize("content", ['{"text": "a"}', '{\n "text": "a"\n}\n', '[{"text": "a"}]'])
def test_a_single_object_is_a_record(tmp_path, content):
    assert read(write(tmp_path / "a.json", content)) == ["a"]


@pytest.mark.parametrize("content", ["", "\n \n", "[]", " [\n] "])
def test_empty_json_gives_no_document(tmp_path, content):
    assert read(write(tmp_path / "a.json", content)) == []
    assert read(write(tmp_path / "a.jsonl", content.strip("[] "))) == []


@pytest.mark.parametrize(
    "content",
    ["[1] A footnote.\n", "{}\n", "{ braces }\n", "[[1, 2]]\n", '["a"]\n', "[", "{", '{"a"', "{\\rm x}", "[{", "[{}]"],
)
def test_text_that_starts_with_a_bracket_is_text(tmp_path, content):
    for name in ("a.txt", "a", "a.md"):
        path = write(tmp_path / name, content)
        assert read(path) == [content.encode()]
        assert sources.notes(source(path)) == []


def test_notes_list_the_files_whose_content_decided(tmp_path):
    contents = {
        "a.json": LINES,
        "b.json": PRETTY,
        "c": OBJECTS,
        "d.txt": gzip.compress(b"plain"),
        "e.jsonl": LINES,
        "f.txt": "plain",
        "g.txt": LINES,
        "h.json.gz": gzip.compress(ARRAY.encode()),
        "i.csv": "body\nx\n",
    }
    for name, content in contents.items():
        write(tmp_path / name, content)

    assert sources.notes(source(tmp_path)) == [
        "a.json and 1 other file: JSON lines",
        "b.json and 1 other file: a JSON array",
        "c: JSON objects",
        "d.txt: plain text, gzip",
    ]
    assert sources.notes(source(tmp_path / "a.json")) == ["a.json: JSON lines"]
    assert sources.notes(source(tmp_path / "a.json", format="json")) == []
    assert sources.notes(SourceConfig()) == []


@pytest.mark.parametrize(
    ("format", "content", "settings", "texts"),
    [
        ("text", LINES, {}, [LINES.encode()]),
        ("text", LINES, {"document": "line"}, [line.encode() for line in LINES.splitlines()]),
        ("json", LINES, {"field": "body"}, TEXTS),
        ("json", PRETTY, {"field": "body"}, TEXTS),
        ("tsv", 'id\tbody\n1\t"one"\n', {"field": "body"}, [b'"one"']),
        ("csv", 'id,body\n1,"o\tne"\n', {"field": "body"}, [b"o\tne"]),
    ],
)
def test_the_setting_overrides_name_and_content(tmp_path, format, content, settings, texts):
    for name in ("a.json", "a.jsonl", "a.tsv", "a.csv", "a.txt", "a"):
        path = write(tmp_path / name, content)
        assert read(path, format=format, **settings) == texts
        sources.check(source(path, format=format, **settings))


def test_recipes_have_the_settings_of_a_source():
    assert DataConfig(path="a", format="tsv", bad_rows="skip").source() == source("a", format="tsv", bad_rows="skip")


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        (
            "a.txt",
            "plain",
            {"field": "body"},
            "config.data.field is 'body', but .*a.txt is plain text.*config.data.format",
        ),
        ("a", "plain", {"group": "id"}, "config.data.group is 'id', but .*a is plain text"),
        ("a.jsonl", LINES, {"field": "body", "format": "text"}, "config.data.field is 'body', but .*is plain text"),
        (
            "a.txt",
            "plain",
            {"format": "yaml"},
            "config.data.format is 'yaml'; expected one of auto, text, json, tsv, csv",
        ),
        ("a.txt", "plain", {"bad_rows": "drop"}, "config.data.bad_rows is 'drop'; expected one of fail, skip"),
        (
            "package.json",
            '{\n "name": "x"\n}',
            {},
            "line 1, record 1 has no field 'text'; .*'name'.*config.data.format=text",
        ),
        ("a.json", "// settings\n{}", {}, "a.json line 1 is not JSON .*config.data.format=.*text reads plain text"),
        ("a.json", '["a"]', {}, "line 1, record 1 is a str; expected an object"),
        ("a.txt", '{"text": "a"}\nplain', {}, "a.txt line 2 is not JSON .*config.data.format=.*text reads plain text"),
        ("a.jsonl", ARRAY, {}, "line 1 is a list; expected an object \\(config.data.format=json reads"),
        ("a.csv", "id\ttext\n1\ta\n", {}, "no column 'text'.*separated by tabs: set config.data.format=tsv"),
        ("a.csv", "id\ttext\n1\ta\n", {"field": "1"}, "separated by tabs: set config.data.format=tsv"),
        ("a.csv", "id;text\n1;a\n", {}, "separated by semicolons.*config.data.format=tsv"),
        ("a.tsv", "id,text\n1,a\n", {}, "separated by commas: set config.data.format=csv"),
        ("stdlib", None, {"format": "json"}, "config.data.format is 'json', but stdlib is not a file"),
    ],
)
def test_files_that_do_not_fit_the_settings_are_reported_in_one_line(tmp_path, name, content, settings, message):
    path = name if content is None else write(tmp_path / name, content)

    with pytest.raises(InputError, match=message) as error:
        sources.check(source(path, **settings))
        read(path, **settings)

    assert "\n" not in str(error.value)


def test_files_of_several_formats_are_read_each_in_its_own(tmp_path):
    for name, content in {"a.json": ARRAY, "b.csv": "body\nb\n", "c.tsv": "body\nc\n", "d": LINES}.items():
        write(tmp_path / name, content)

    assert read(tmp_path / "*", field="body") == [*TEXTS, b"b", b"c", *TEXTS]
    write(tmp_path / "README.md", "plain")
    with pytest.raises(InputError, match="README.md is plain text, which has no fields"):
        read(tmp_path, field="body")


def test_a_folder_of_source_code_is_read_as_text_with_format_text(tmp_path):
    for name, content in {"a.py": "import json\n", "package.json": '{\n "name": "x"\n}\n'}.items():
        write(tmp_path / name, content)

    with pytest.raises(InputError, match="package.json line 1, record 1 has no field 'text'.*config.data.format=text"):
        read(tmp_path)
    assert read(tmp_path, format="text") == [b"import json\n", b'{\n "name": "x"\n}\n']


@pytest.mark.parametrize("name", ["T.TSV", "t.tsv", "t.csv.tsv", "T.Tsv.gz"])
def test_a_table_called_tsv_is_separated_by_tabs(tmp_path, name):
    content = b'text\tb\n"a, b"\tc\n'
    assert read(write(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)) == [b'"a, b"']


@pytest.mark.parametrize("name", ["T.CSV", "t.csv", "t.tsv.csv", "t.Csv.gz"])
def test_a_table_called_csv_is_separated_by_commas_though_its_first_row_holds_a_tab(tmp_path, name):
    content = b'id,text\tin two parts\n1,"a\tb"\n2,c\n'
    path = write(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)

    assert read(path, field="text\tin two parts") == [b"a\tb", b"c"]


BAD = {
    "r.jsonl": '{"text": "a"}\n{"text": null}\n{"id": 1}\n{"text": 5}\n{"text": \n[]\n{"text": "b"}\n',
    "r.json": '[{"text": "a"}, null, {"text": null}, {"id": 1}, {"text": 5}, [], {"text": "b"}]',
    "r.tsv": "text\tid\na\t1\nx\nx\ty\tz\nb\t2\n",
    "r.csv": 'text,id\na,1\nx\n"x"y,z\nb,2\n',
}
REASONS = {
    "r.jsonl": {"not JSON": 1, "no object": 1, "no field 'text'": 1, "'text' is null": 1, "'text' is a int": 1},
    "r.json": {"no object": 2, "no field 'text'": 1, "'text' is null": 1, "'text' is a int": 1},
    "r.tsv": {"not 2 columns": 2},
    "r.csv": {"not 2 columns": 1, "not a row of a table": 1},
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_skipped_and_counted_by_reason(tmp_path, name):
    path, report = write(tmp_path / name, BAD[name]), reports.empty()

    texts = list(sources.documents(source(path, bad_rows="skip"), report))

    assert [text if isinstance(text, str) else text.decode() for text in texts] == ["a", "b"]
    counts = {reason: entry["documents"] for reason, entry in report["dropped"].items()}
    assert counts == {f"bad row ({reason})": count for reason, count in REASONS[name].items()}
    assert report["read"]["documents"] == sum(counts.values())
    assert report["read"]["bytes"] == sum(entry["bytes"] for entry in report["dropped"].values()) > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("r.jsonl", "r.jsonl line 2: field 'text' is null"),
        ("r.json", "r.json line 1, record 2 is null"),
        ("r.tsv", "r.tsv line 3 has 1 column, but line 1 has 2"),
        ("r.csv", "r.csv line 3 has 1 column, but line 1 has 2"),
    ],
)
def test_a_bad_row_stops_with_its_place_and_the_setting_that_skips_it(tmp_path, name, message):
    with pytest.raises(InputError, match=f"{message}.*; config.data.bad_rows=skip ") as error:
        read(write(tmp_path / name, BAD[name]))

    assert "\n" not in str(error.value)


def test_bad_examples_of_a_dataset_are_skipped_too(monkeypatch):
    examples = [{"text": b"a"}, {"text": None}, {"text": 5}, {"text": b"b"}]
    monkeypatch.setattr(tfds, "records", lambda *arguments: iter(examples))
    report = reports.empty()

    assert list(sources.documents(SourceConfig(path="tfds:x", bad_rows="skip"), report)) == [b"a", b"b"]
    assert list(report["dropped"]) == ["bad row ('text' is null)", "bad row ('text' is a int)"]
    with pytest.raises(InputError, match="feature 'text' of example 1 is null.*config.data.bad_rows=skip"):
        read("tfds:x")
    # All examples have the same features.
    with pytest.raises(InputError, match="has no feature 'body'; it has 'text'"):
        read("tfds:x", field="body", bad_rows="skip")


def test_a_quote_that_is_never_closed_is_not_one_bad_row(tmp_path):
    path = write(tmp_path / "r.csv", 'text\na\n"b\nc\nd\n')

    with pytest.raises(InputError, match="r.csv line 3 opens a quote that is never closed"):
        read(path, bad_rows="skip")


PLAIN, TABLE = b"First line.\n\nSecond.\n", b"text\tbody\na\tb\n"
TWO = b'{"text": "a", "body": "b"}\n{"text": "c", "body": "d"}\n'
# Fingerprints of version 1, before content could decide: stores and checkpoints refer to them.
FINGERPRINTS = [
    ("t.txt", PLAIN, {}, "69bd9954f691898457576c5487d95cba"),
    ("t.md", PLAIN, {"document": "line"}, "9a2cd77b3f7bceee4fa8c24fe3df6745"),
    ("t", PLAIN, {}, "d4edcaafa86d2bca6031dd79d686d3ae"),
    ("r.jsonl", TWO, {}, "4d8827f4a2ea13660485c52ac0edc18f"),
    ("r.ndjson", TWO, {"field": "body", "group": "text"}, "19124b513df6f46e69fa7014e6f8d41c"),
    ("r.tsv", TABLE, {}, "778a1682364bdac73a49b325945e397b"),
    ("r.csv", b"text,body\na,b\n", {"group": "body"}, "34580cfda78921840fca20a5a4a5419e"),
    ("u.txt", b"\xff\xfe" + "zwei\n".encode("utf-16-le"), {}, "4c1bd5a23dc68de12385e0cc9b3b604c"),
]
FORMER = [
    ("r.json", TWO, "1183828c04885b47f920e4549e5c9db9"),
    ("R.JSONL", TWO, "1de9913b2d18474261ab367ffae0e8fb"),
    ("j.txt", TWO, "4cbd9c2a867a5b7739349d94f8f5a2e6"),
    ("tabs.csv", TABLE, "8f979f770d7d3917468d73f9b9aca347"),
    ("x.csv.tsv", TABLE, "778a1682364bdac73a49b325945e397b"),
    ("w.txt", b"\xff\xfe\0\0" + "zwei\n".encode("utf-32-le"), "5417052429c58ee81d4967fad6288d13"),
    ("R.CSV", b"text,body\na,b\n", "41b2cf74beee9e0df6e3854ba38e551a"),
]


@pytest.mark.parametrize(("name", "content", "settings", "fingerprint"), FINGERPRINTS)
def test_unchanged_reading_keeps_its_fingerprint_and_new_settings_change_it(
    tmp_path, name, content, settings, fingerprint
):
    path = write(tmp_path / name, content)

    assert sources.fingerprint(source(path, **settings)) == fingerprint
    others = [
        sources.fingerprint(source(path, **settings, **new)) for new in ({"format": "text"}, {"bad_rows": "skip"})
    ]
    assert len({fingerprint, *others}) == 3


@pytest.mark.parametrize(("name", "content", "fingerprint"), FORMER)
def test_changed_reading_changes_the_fingerprint(tmp_path, name, content, fingerprint):
    assert sources.fingerprint(source(write(tmp_path / name, content))) != fingerprint


def test_compression_without_its_suffix_changes_the_fingerprint(tmp_path):
    # Computed as in version 1, because the header of a gzip file differs between versions of Python.
    import xxhash

    data = gzip.compress(PLAIN)
    described = json.dumps(["file", False, ".txt", len(data)]).encode()
    former = xxhash.xxh3_128(b"source 1" + described + xxhash.xxh3_128(data).digest()).hexdigest()

    assert sources.fingerprint(source(write(tmp_path / "g.txt", data))) != former
    described = json.dumps(["file", False, ".gz", len(data)]).encode()
    former = xxhash.xxh3_128(b"source 1" + described + xxhash.xxh3_128(data).digest()).hexdigest()
    assert sources.fingerprint(source(write(tmp_path / "g.txt.gz", data))) == former
