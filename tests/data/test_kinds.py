"""Kinds of columns: tags, several labels and ids, in corpora of columns."""

import json

import numpy as np
import pytest

from lm_jax.core.config import InputError, Tree
from lm_jax.data import corpora
from lm_jax.data.config import DataConfig
from lm_jax.data.kinds import KINDS
from lm_jax.data.rows import Reads, RowsConfig
from lm_jax.data.tokenizers import TokenizerConfig

TAGGED = {"text": {}, "tags": {"kind": "tags"}}
LABELLED = {"text": {}, "topics": {"kind": "labels"}}
NAMED = {"text": {}, "key": {"kind": "id"}}


def prepare(root, columns, path, **settings):
    tree = Tree({name: Tree(column) for name, column in columns.items()})
    settings = {"tokenizer": TokenizerConfig(kind="bytes"), "workers": 1, "store": str(root / "store"), **settings}
    return corpora.prepare(DataConfig(path=str(path), columns=tree, **settings))


def json_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def make_rows(corpus, **columns):
    reads = Reads(plan="columns", length=64, columns=columns)
    return corpora.make_rows(corpus, config=RowsConfig(), split="train", reads=reads, validation=0.0)


def row(rows, index):
    return rows.row(index, 0, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("kind", "value", "entry"),
    [
        ("tags", '["B-PER", "O"]', ["B-PER", "O"]),
        ("tags", ["B-PER", "O"], ["B-PER", "O"]),
        ("tags", " B-PER\tO ", ["B-PER", "O"]),
        ("tags", [b"O", 3, True], ["O", "3", "true"]),
        ("labels", '["a", "b, c"]', ["a", "b, c"]),
        ("labels", "a, b,,a", ["a", "b"]),
        ("labels", "b, c|a |", ["b, c", "a"]),
        ("labels", [2, 1, 2], ["2", "1"]),
        ("labels", "[]", []),
        ("labels", "", []),
        ("id", 7, ["7"]),
        ("id", "a b", ["a b"]),
    ],
)
def test_entries_are_lists_or_text(kind, value, entry):
    assert KINDS[kind].parse(value) == [(each,) for each in entry]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *(("tags", value) for value in ('["a"', {}, [""], [["a"]], [b"\xff"], None)),
        *(("labels", value) for value in (None, '["a", 1.5]', 3, '["a" [')),
        *(("id", value) for value in (True, 1.5, None)),
    ],
)
def test_other_values_are_refused(kind, value):
    with pytest.raises(ValueError):
        KINDS[kind].parse(value)


SENTENCES = [
    {"text": "  Ann met\t王毅 .\n", "tags": "B-PER O B-PER O"},
    {"text": ["New York", "\ufeff", "is", "big"], "tags": ["B-LOC", "I-LOC", "O", "O"]},
    {"text": "", "tags": "O"},
    {"text": "one", "tags": '["O"]'},
]


def test_tags_have_a_row_for_every_word(tmp_path):
    corpus = prepare(tmp_path, TAGGED, json_lines(tmp_path / "a.jsonl", SENTENCES))
    rows = make_rows(corpus, text=64, tags=0)

    words = []
    for index in range(len(rows)):
        entry = row(rows, index)
        names = corpus.names["tags"]
        words.append([(corpus.tokenizer.decode(entry["text"][a:b]), names[tag]) for a, b, tag in entry["tags"]])
        assert entry["tags"].dtype == np.int32

    assert words == [
        [("Ann", "B-PER"), ("met", "O"), ("王毅", "B-PER"), (".", "O")],
        # The second word is a byte order mark, which cleaning removes.
        [("New York", "B-LOC"), ("", "I-LOC"), ("is", "O"), ("big", "O")],
        [("one", "O")],
    ]
    assert corpus.names["tags"] == ["B-LOC", "B-PER", "I-LOC", "O"] and corpus.records == 4
    # Words that end after the tokens that are read are left out.
    assert len(row(make_rows(corpus, text=9, tags=0), 0)["tags"]) == 2


def test_words_are_read_without_tags(tmp_path):
    path = json_lines(tmp_path / "a.jsonl", SENTENCES)
    tagged = prepare(tmp_path, TAGGED, path)
    columns = {"text": {}, "tags": {"kind": "words"}}

    corpus = prepare(tmp_path, columns, path)

    assert corpus.rows.tolist() == tagged.rows.tolist() == [0, 1, 3] and corpus.names == {"tags": []}
    for record in (0, 1, 3):
        words, expected = (each.read("tags", record, 99) for each in (corpus, tagged))
        np.testing.assert_array_equal(words[:, :2], expected[:, :2])
        assert not words[:, 2].any()
    # Nothing but the text is read, which needs no other field.
    path = json_lines(tmp_path / "b.jsonl", [{"body": "x y"}])
    corpus = prepare(tmp_path, {"text": {"field": "body", "path": str(path)}, "tags": {"kind": "words"}}, "stdlib")
    assert corpus.read("tags", 0, 9).tolist() == [[0, 1, 0], [2, 3, 0]] and corpus.report["read"]["documents"] == 1


@pytest.mark.parametrize(
    ("text", "tags", "problem"),
    [
        ("a b", "O", "has 1 tag, but the text has 2 words; expected a tag a word"),
        (["a b"], "O O", "has 2 tags, but the text has 1 word"),
        ("a b", ["O", None], "is .'O', None.; expected a list of tags, or tags separated by white space"),
    ],
)
def test_tags_that_do_not_fit_the_words_are_bad_rows(tmp_path, text, tags, problem):
    path = json_lines(tmp_path / "a.jsonl", [{"text": "x", "tags": "A"}, {"text": text, "tags": tags}])

    with pytest.raises(InputError, match=f"columns.tags: .*a.jsonl line 2: field 'tags' {problem}.*bad_rows=skip"):
        prepare(tmp_path, TAGGED, path)
    corpus = prepare(tmp_path, TAGGED, path, bad_rows="skip")

    assert corpus.rows.tolist() == [0] and corpus.records == 2
    assert corpus.report["dropped"]["bad row (in column tags)"]["documents"] == 1


def test_a_sentence_of_conll_has_the_tags_of_its_words(tmp_path):
    (tmp_path / "a.conll").write_text("a A\n\u3000 B\nb\xa0c C\n\nd\n\n# A\n")
    columns = {"text": {"field": "0"}, "tags": {"kind": "tags", "field": "-1"}}

    corpus = prepare(tmp_path, columns, tmp_path / "a.conll", format="conll", bad_rows="skip")

    assert corpus.records == 3 and corpus.rows.tolist() == [0, 2]
    rows = make_rows(corpus, text=64, tags=0)
    texts = [corpus.tokenizer.decode(row(rows, 0)["text"][a:b]) for a, b, _ in row(rows, 0)["tags"]]
    # White space that does not separate columns is part of a word.
    assert texts == ["a", "", "b\xa0c"]
    assert {reason: each["documents"] for reason, each in corpus.report["dropped"].items()} == {
        "bad row (not 2 columns)": 2
    }


def test_records_without_labels_are_kept(tmp_path):
    (tmp_path / "a.tsv").write_text('text\ttopics\none\tb,a\ntwo\t\nthree\t["c"]\nfour\t[]\n')

    corpus = prepare(tmp_path, LABELLED, tmp_path / "a.tsv")

    rows = make_rows(corpus, text=64, topics=0)
    assert [row(rows, index)["topics"].tolist() for index in range(len(rows))] == [[1, 0], [], [2], []]
    assert row(rows, 1)["topics"].dtype == np.int32 and list(corpus.names["topics"]) == ["a", "b", "c"]


def test_ids_are_kept_as_text_beside_the_number_of_the_record(tmp_path):
    records = [{"text": "a", "key": "x1"}, {"text": "b", "key": "漢"}, {"text": "", "key": 7}, {"text": "c", "key": 8}]

    corpus = prepare(tmp_path, NAMED, json_lines(tmp_path / "a.jsonl", records))

    rows = make_rows(corpus, text=64, key=0)
    assert [int(row(rows, index)["key"]) for index in range(len(rows))] == [0, 1, 3]
    assert [corpus.id("key", record) for record in range(4)] == ["x1", "漢", "7", "8"]
    assert row(rows, 0)["key"].dtype == np.int32


def test_equal_ids_are_bad_rows_that_name_both_places(tmp_path):
    (tmp_path / "a.csv").write_text('text,key\n"a\nb",x\n,y\n')
    (tmp_path / "b.csv").write_text("text,key\nc,z\nd,x\n")
    path = f"{tmp_path / 'a.csv'},{tmp_path / 'b.csv'}"

    with pytest.raises(InputError, match="columns.key: .*b.csv line 3: field 'key' is 'x'; .*, but .*a.csv line 2 has"):
        prepare(tmp_path, NAMED, path)
    corpus = prepare(tmp_path, NAMED, path, bad_rows="skip")

    assert corpus.rows.tolist() == [0, 2] and corpus.id("key", 0) == "x"
    assert corpus.report["dropped"]["bad row (in column key)"]["documents"] == 1


def test_lists_of_something_else_are_no_text(tmp_path):
    path = json_lines(tmp_path / "a.jsonl", [{"text": ["a", 1]}])

    with pytest.raises(InputError, match="a.jsonl line 1: field 'text' is a list; expected text or a list of words"):
        prepare(tmp_path, {"text": {}}, path)


def test_tags_of_an_unknown_text_are_refused():
    for column in ({"kind": "tags", "of": "txt"}, {"kind": "spans", "of": "txt"}):
        with pytest.raises(InputError, match="columns.tags.of is 'txt'; expected 'text'"):
            DataConfig(columns=Tree(text=Tree(), tags=Tree(column)))
    with pytest.raises(InputError, match="columns.topics.of is 'text'; expected ''"):
        DataConfig(columns=Tree(text=Tree(), topics=Tree(kind="labels", of="text")))


def test_questions_and_their_answers_are_columns(tmp_path):
    questions = [
        {"id": "q1", "question": "Who?", "answers": [{"text": "王毅", "answer_start": 4}]},
        {"id": "q2", "question": "Why?", "answers": [{"text": "x", "answer_start": 0}]},
        {"id": "q3", "question": "When?", "answers": [], "is_impossible": True},
    ]
    tree = {"data": [{"title": "t", "paragraphs": [{"context": "Ann 王毅 .", "qas": questions}]}]}
    (tmp_path / "a.json").write_text(json.dumps(tree))
    columns = {"question": {}, "context": {}, "answers": {"kind": "spans", "of": "context"}, "id": {"kind": "id"}}

    corpus = prepare(tmp_path, columns, tmp_path / "a.json", bad_rows="skip")

    rows = make_rows(corpus, question=64, context=64, answers=0, id=0)
    assert corpus.records == 3 and [corpus.id("id", int(row(rows, index)["id"])) for index in (0, 1)] == ["q1", "q3"]
    first = row(rows, 0)
    (start, stop, _), *others = first["answers"].tolist()
    assert corpus.tokenizer.decode(first["context"][start:stop]) == "王毅" and not others
    assert row(rows, 1)["answers"].shape == (0, 3) and list(corpus.names["answers"]) == ["answer"]
