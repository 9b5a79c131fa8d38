"""Names of labels that another corpus fixes, and the places of bad entries."""

import bz2
import csv
import gzip
import json

import numpy as np
import pytest

from lm_jax.core.config import InputError, Tree
from lm_jax.data import corpora, sources
from lm_jax.data.config import DataConfig
from lm_jax.data.sources import SourceConfig
from lm_jax.data.tokenizers import TokenizerConfig

COLUMNS = {
    "text": {},
    "label": {"kind": "label"},
    "topics": {"kind": "labels"},
    "tags": {"kind": "tags"},
    "entities": {"kind": "spans"},
    "score": {"kind": "number"},
    "key": {"kind": "id"},
}
RECORD = {"text": "a b", "label": "yes", "topics": "x,y", "tags": "A B", "entities": [[0, 1, "PER"]], "score": 1}


def prepare(root, columns, path, names=None, **settings):
    tree = Tree({name: Tree(column) for name, column in columns.items()})
    settings = {"tokenizer": TokenizerConfig(kind="bytes"), "workers": 1, "store": str(root / "store"), **settings}
    return corpora.prepare(DataConfig(path=str(path), columns=tree, **settings), names=names)


def json_lines(path, *records):
    records = [{**RECORD, "key": number, **record} for number, record in enumerate(records)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def train(tmp_path):
    return prepare(tmp_path, COLUMNS, json_lines(tmp_path / "train.jsonl", {}, {"label": "no", "tags": "A C"}))


def test_another_corpus_gets_the_ids_of_the_training_data(tmp_path, train):
    path = json_lines(tmp_path / "dev.jsonl", {"tags": "C B", "topics": "y", "label": "yes"})

    dev = prepare(tmp_path, COLUMNS, path, train.names)
    alone = prepare(tmp_path, COLUMNS, path)

    assert dev.names == train.names and alone.names != train.names
    assert dev.read("label", 0, 9) == 1 and alone.read("label", 0, 9) == 0
    assert dev.read("tags", 0, 9)[:, 2].tolist() == [2, 1] and dev.read("topics", 0, 9).tolist() == [1]
    # The ids differ, and so does the fingerprint.
    assert dev.fingerprint != alone.fingerprint
    # Names that are configured or given are the same.
    configured = {name: {**column, "names": tuple(train.names.get(name, ()))} for name, column in COLUMNS.items()}
    assert prepare(tmp_path, configured, path).fingerprint == dev.fingerprint
    # A corpus without answers ignores their names.
    assert prepare(tmp_path, {"text": {}}, path, train.names).names == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "Yes"}, "columns.label: .*: field 'label' has 'Yes'; expected one of 'yes', 'no'"),
        ({"topics": ["y", "z"]}, "columns.topics: .*: field 'topics' has 'z'; expected one of 'x', 'y'|'y', 'x'"),
        ({"tags": "A BB"}, "columns.tags: .*: field 'tags' has 'BB'; expected one of 'B', "),
        ({"entities": [[0, 1, "LOC"]]}, "columns.entities: .*: field 'entities' has 'LOC'; expected one of 'PER'"),
    ],
)
def test_an_unknown_name_is_a_bad_row(tmp_path, train, change, message):
    path = json_lines(tmp_path / "dev.jsonl", {}, {}, change)

    with pytest.raises(InputError, match=message) as caught:
        prepare(tmp_path, COLUMNS, path, train.names)
    dev = prepare(tmp_path, COLUMNS, path, train.names, bad_rows="skip")

    assert f"{path} line 3: " in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).endswith("config.data.bad_rows=skip leaves out such rows and counts them")
    (name,) = change
    assert dev.rows.tolist() == [0, 1] and dev.records == 3 and dev.names == train.names
    assert dev.report["dropped"][f"bad row (in column {name})"]["documents"] == 1


def test_the_nearest_of_many_known_names_are_shown(tmp_path):
    names = {"label": [f"name {number}" for number in range(30)] + ["colour"]}
    path = json_lines(tmp_path / "dev.jsonl", {"label": "color"})

    with pytest.raises(InputError, match="has 'color'; expected one of 'colour', .* or 21 others;") as caught:
        prepare(tmp_path, {"text": {}, "label": {"kind": "label"}}, path, names)
    assert str(caught.value).count("'name ") == 9
    with pytest.raises(InputError, match="has 'color'; expected none, because no name is known"):
        prepare(tmp_path, {"text": {}, "label": {"kind": "label"}}, path, {"label": []})


def test_given_names_that_differ_from_those_of_the_configuration_are_refused(tmp_path):
    columns = {"text": {}, "label": {"kind": "label", "names": ("yes", "no")}}
    path = json_lines(tmp_path / "dev.jsonl", {})

    assert prepare(tmp_path, columns, path, {"label": ["yes", "no"]}).names == {"label": ["yes", "no"]}
    with pytest.raises(InputError, match="label.names is .'yes', 'no'., but the other corpus has .'no', 'yes'."):
        prepare(tmp_path, columns, path, {"label": ["no", "yes"]})


def table(path, delimiter, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([("text", "label"), *rows])
    return path


def write(path, text):
    path.write_bytes({".gz": gzip.compress, ".bz2": bz2.compress}.get(path.suffix, bytes)(text.encode()))
    return path


# Files whose record 2, counted from 0, has the label "bad", and its place. Empty lines and bad rows come before it.
LINES = ['{"text": "a", "label": "x"}', "", '{"text": "b", "label": "x"}', '{"text": "c", "label": "bad"}', ""]
FILES = {
    "a.jsonl": ("\n".join(LINES), {}, "line 4"),
    "a.json.gz": ("[" + ",\n\n".join(line for line in LINES if line) + "\n]", {}, "line 5, record 3"),
    "b.json": ("\n\n".join(line for line in LINES if line), {"format": "json"}, "line 5"),
    "a.tsv.bz2": ("text\tlabel\n\na\tx\nb\tx\nc\tbad\n", {}, "line 5"),
    "a.csv": ('text,label\n"a\n\nb",x\n"",x\n"c\nd",bad\n', {}, "line 6"),
    "a.txt": ("__label__x a\n\n__label__y b\n__label__bad c\n", {"format": "labelled"}, "line 4"),
    "a.conll": ("x a\nx a\n\nx b\n\n\nbad c\nx d\n", {"format": "conll"}, "line 7"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_entry_is_named_by_its_line(tmp_path, name):
    text, settings, place = FILES[name]
    path = write(tmp_path / name, text)
    columns = {"text": {"field": "1"}, "label": {"kind": "labels", "field": "0"}} if ".conll" in name else {}
    columns = columns or {"text": {}, "label": {"kind": "label"}}

    with pytest.raises(
        InputError, match=f"columns.label: {path} {place}.*: field '.*' has 'bad'; expected one"
    ) as caught:
        prepare(tmp_path, columns, path, {"label": ["x", "y"]}, **settings)
    assert "\n" not in str(caught.value)


def test_the_right_file_of_several_is_named(tmp_path):
    for name, label in (("a.tsv", "x"), ("b.tsv", "y"), ("c.tsv", "bad"), ("d.tsv", "bad")):
        table(tmp_path / name, "\t", [("one", "x"), ("", "x"), ("two", label)])

    with pytest.raises(InputError, match="c.tsv line 4: field 'label' has 'bad'"):
        prepare(tmp_path, {"text": {}, "label": {"kind": "label"}}, tmp_path / "*.tsv", {"label": ["x", "y"]})


@pytest.mark.parametrize(
    ("document", "text", "line"),
    [("line", "1\n\n2\nbad\n", 4), ("paragraph", "1\n\n\n2\n\nbad\nworse\n", 6), ("file", "bad", 1)],
)
def test_a_bad_entry_of_plain_text_is_named_by_its_first_line(tmp_path, document, text, line):
    numbers, count = write(tmp_path / "n.txt", text), {"line": 4, "paragraph": 3, "file": 1}[document]
    texts = write(tmp_path / "t.txt", "text\n" * count)
    columns = {"text": {"path": str(texts)}, "score": {"kind": "number", "path": str(numbers), "document": document}}

    with pytest.raises(
        InputError, match=f"columns.score: .*n.txt line {line}: the entry is 'bad.*'; expected a finite"
    ):
        prepare(tmp_path, columns, "stdlib")


def test_a_missing_label_is_named_by_its_line_and_an_empty_one_is_counted(tmp_path):
    columns = {"text": {}, "label": {"kind": "label"}}
    path = json_lines(tmp_path / "a.jsonl", {}, {"label": None})
    with pytest.raises(InputError, match="a.jsonl line 2: field 'label' is null; expected text, an integer"):
        prepare(tmp_path, columns, path)

    path = table(tmp_path / "a.csv", ",", [("a", "x"), ("b", ""), ("", "x"), ("c", "y")])
    corpus = prepare(tmp_path, columns, path)

    # Record i of every column stays record i.
    assert corpus.rows.tolist() == [0, 3] and corpus.records == 4
    assert corpus.report["dropped"]["empty"]["documents"] == 2
    assert [corpus.names["label"][corpus.read("label", record, 9)] for record in (0, 2, 3)] == ["x", "x", "y"]


def test_every_record_stays_at_its_place_whatever_is_bad(tmp_path):
    changes = [{}, {"text": None}, {"text": "\x07"}, {"label": None}, {"label": "?"}, {"tags": "A"}, {"topics": [""]}]
    changes += [{"entities": [[0, 9, "PER"]]}, {"score": "x"}, {"key": 0}, {"text": "  a b\n"}, {"text": ["a", 1]}, {}]
    path = json_lines(tmp_path / "a.jsonl", *changes)

    names = {"label": ["yes"]}
    corpus = prepare(tmp_path, COLUMNS, path, names, bad_rows="skip")

    assert corpus.records == len(changes) and corpus.rows.tolist() == [0, 10, 12]
    assert [corpus.id("key", record) for record in (0, 8, 10, 12)] == ["0", "8", "10", "12"]
    for record in corpus.rows.tolist():
        assert corpus.tokenizer.decode(corpus.read("text", record, 99)).strip() == "a b"
        assert [len(corpus.read(name, record, 99)) for name in ("topics", "tags", "entities")] == [2, 2, 1]
    starts = np.array([len(bounds) for bounds in corpus.bounds.values()])
    assert (starts == len(changes) + 1).all()


def test_places_are_found_by_reading_a_source_again(tmp_path):
    path = write(tmp_path / "a.txt", "a\n\nb\n")

    config = SourceConfig(path=str(path), document="line")
    assert [sources.place(config, index) for index in range(3)] == [f"{path} line {line}" for line in (1, 2, 3)]
    questions = [{"id": key, "question": "?", "answers": []} for key in ("q1", "q2")]
    tree = {"data": [{"paragraphs": [{"context": "c", "qas": questions}]}]}
    path = write(tmp_path / "a.json", json.dumps(tree))
    assert sources.place(SourceConfig(path=str(path), field="id"), 1) == f"{path} id 'q2'"
