"""Annotated text: words with tags (CoNLL), questions with answers (SQuAD), and labelled lines."""

import gzip
import json

import pytest

from lm_jax.core.config import InputError
from lm_jax.data import sources
from lm_jax.data.clean import report as reports
from lm_jax.data.sources import SourceConfig

TAGGED = """-DOCSTART- -X- O O

EU NNP B-ORG
rejects VBZ O

Peter NNP B-PER
-DOCSTART- -X- O O
# NN O
1 CD O
"""


def write(path, content):
    content = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def source(path, **settings):
    return SourceConfig(path=str(path), **settings)


def read(path, field="text", **settings):
    return list(sources.documents(source(path, field=field, **settings)))


def read_lists(path, field, **settings):
    return list(sources.documents(source(path, field=field, **settings), types=(bytes, str, list)))


@pytest.mark.parametrize("name", ["a.txt", "a.conll.gz"])
@pytest.mark.parametrize(
    "content", [TAGGED, TAGGED.replace(" ", "\t").replace("\n", "\r\n"), "\ufeff" + TAGGED.strip()]
)
def test_a_record_of_conll_is_a_column_of_a_sentence(tmp_path, name, content):
    path = write(tmp_path / name, content)

    assert read(path, "0", format="conll") == [b"EU rejects", b"Peter", b"# 1"]
    assert read(path, "2", format="conll") == read(path, "-1", format="conll") == [b"B-ORG O", b"B-PER", b"O O"]
    assert read_lists(path, "1", format="conll")[0] == [b"NNP", b"VBZ"]


def test_comments_and_parts_of_words_of_conllu_are_ignored(tmp_path):
    rest = "\t_" * 7
    lines = ["# sent_id = 1", "# text = Vámonos al 20 000", "1-2\tVámonos\t_" + rest, "1\tVamos\tir" + rest]
    lines += ["2\tnos\tnosotros" + rest, "2.1\tx\tx" + rest, "3\t20 000\t20000" + rest, "", "1\t#\t#" + rest]

    path = write(tmp_path / "a.conllu", "\n".join(lines))

    # A word may hold a space.
    assert [[word.decode() for word in words] for words in read_lists(path, "1", format="conll")] == [
        ["Vamos", "nos", "20 000"],
        ["#"],
    ]
    assert read(path, "2", format="conll") == [b"ir nosotros 20000", b"#"]


@pytest.mark.parametrize("space", [" ", "\t"])
def test_a_word_of_conll_may_be_a_space(tmp_path, space):
    path = write(tmp_path / "a", f"a{space}O\n {space}O\nb{space}O\n")

    assert read_lists(path, "0", format="conll") == [[b"a", b" ", b"b"]]


@pytest.mark.parametrize(
    ("content", "bad", "message"),
    [
        ("a O\nb\n\nc O\n", [True, False], "line 2 has 1 column, but line 1 has 2; expected a word and its tags"),
        ("-DOCSTART-\n\na O\n\nb O\nc\n", [False, True], "line 6 has 1 column, but line 3 has 2"),
        ("a O\n\nb O\nc Od e\n\nf O\n", [False, True, False], "line 4 has 3 columns, but line 3 has 2"),
    ],
)
def test_a_row_without_its_columns_makes_a_sentence_bad(tmp_path, content, bad, message):
    path, report = write(tmp_path / "a.txt", content), reports.empty()

    with pytest.raises(InputError, match=f"a.txt {message}.*bad_rows=skip") as caught:
        read(path, "0", format="conll")
    skipping = source(path, field="0", format="conll", bad_rows="skip")

    assert "\n" not in str(caught.value)
    # Sentence i stays at index i.
    sentences = list(sources.documents(skipping, report, aligned=True))
    assert [sentence is None for sentence in sentences] == bad
    assert report["dropped"]["bad row (not 2 columns)"]["documents"] == 1


def test_sentences_may_have_more_columns_than_the_first(tmp_path):
    path = write(tmp_path / "a", "a 1 A\n\nb 1 X Y\nc 1 X Z\n")

    assert read(path, "-1", format="conll") == [b"A", b"Y Z"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"field": "text"}, "config.data.field is 'text'; the format conll expects the number of a column"),
        ({"field": "0", "group": "1"}, "config.data.group is '1'; the format conll expects no group"),
        ({"field": "3"}, "line 3 has 3 columns and no column 3: set config.data.field to 0..2, or to -1"),
        ({"field": "-4"}, "has 3 columns and no column -4"),
    ],
)
def test_fields_of_conll_are_numbers_of_columns(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        read(write(tmp_path / "a", TAGGED), format="conll", **settings)


def test_lines_with_labels_are_read_in_the_formats_of_fasttext_and_trec(tmp_path):
    lines = "__label__good  all of it\n\n__label__a __label__b two __label__c\nDESC:manner How ?\n"
    path = write(tmp_path / "a.txt.gz", lines.encode() + b"0 caf\xe9\n")

    assert read(path, format="labelled") == [b"all of it", b"two __label__c", b"How ?", b"caf\xe9"]
    assert read_lists(path, "label", format="labelled") == [b"good", [b"a", b"b"], b"DESC:manner", b"0"]
    with pytest.raises(InputError, match="a.txt.gz line 3: field 'label' is a list; expected text"):
        read(path, "label", format="labelled")
    with pytest.raises(InputError, match="line 1 has no field 'body'; it has 'label', 'text'"):
        read(path, "body", format="labelled")


@pytest.mark.parametrize("line", ["alone", "__label__x", "__label__ text"])
def test_lines_without_label_or_text_are_bad_in_every_field(tmp_path, line):
    path = write(tmp_path / "a", f"x one\n{line}\ny two\n")

    for field in ("label", "text"):
        with pytest.raises(InputError, match=f"line 2 is '{line}'; expected a label, white space and a text"):
            read(path, field, format="labelled")
        skipping = source(path, field=field, format="labelled", bad_rows="skip")
        assert [value is None for value in sources.documents(skipping, aligned=True)] == [False, True, False]


def answer(text, start):
    return {"text": text, "answer_start": start}


QUESTIONS = {
    "version": "v2.0",
    "data": [
        {
            "title": "Cats",
            "paragraphs": [
                {
                    "context": "Cats 睡觉 a lot.",
                    "qas": [
                        {
                            "id": "q1",
                            "question": "Who?",
                            "answers": [answer("Cats", 0), answer("睡觉", 5), answer("Cats", 0)],
                        },
                        {
                            "id": 2,
                            "question": "Why?",
                            "is_impossible": True,
                            "answers": [],
                            "plausible_answers": [answer("a lot", 8)],
                        },
                    ],
                },
                {"context": "b", "qas": []},
            ],
        },
        {"paragraphs": [{"qas": [{"answers": [answer("c", 1)], "id": "q3", "question": "c?"}], "context": "bc"}]},
    ],
}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a", "a.txt"])
def test_squad_is_recognised_and_its_questions_are_records(tmp_path, name, indent):
    path = write(tmp_path / name, json.dumps(QUESTIONS, indent=indent))

    assert sources.notes(source(path)) == [f"{name}: squad"]
    assert read(path, "id") == ["q1", "2", "q3"]
    assert read(path, "question") == ["Who?", "Why?", "c?"]
    assert read(path, "context") == ["Cats 睡觉 a lot.", "Cats 睡觉 a lot.", "bc"]
    assert read(path, "title") == ["Cats", "Cats", ""]
    # Characters, each answer once.
    assert read_lists(path, "answers") == [[[0, 4, "answer"], [5, 7, "answer"]], [], [[1, 2, "answer"]]]
    assert read(path, "context", format="squad", group="title")[0] == "Cats 睡觉 a lot.\nCats 睡觉 a lot."


@pytest.mark.parametrize(
    "content",
    [{"data": []}, {"data": {"paragraphs": []}}, {"data": [{"title": "x"}]}, {"paragraphs": []}, {"data": [[]]}],
)
def test_other_json_is_not_squad(tmp_path, content):
    path = write(tmp_path / "a.json", json.dumps(content))

    assert sources.notes(source(path)) == ["a.json: JSON lines"]
    if "data" not in content or content["data"] != []:
        with pytest.raises(InputError, match="a.json line 1 is not in SQuAD's format: expected an object with"):
            read(path, "id", format="squad")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": [answer("cats", 0)]}, "id 'q1': field 'answers' has 'cats', which is not at character 0 of the"),
        ({"answers": [answer("Cats", -1)]}, "has 'Cats', which is not at character -1"),
        ({"answers": [answer("", 0)]}, "has '', which is not at character 0"),
        ({"answers": [answer("lot.", 10), {"text": "x"}]}, "field 'answers' is {'text': 'x'}; expected a list of"),
        (
            {"answers": {"text": ["Cats"]}},
            "field 'answers' is {'text': .'Cats'.}; expected a list of objects with a text",
        ),
        ({"answers": ...}, "id 'q1' has no field 'answers'"),
    ],
)
def test_an_answer_that_is_not_in_its_context_is_a_bad_row(tmp_path, change, message):
    tree = json.loads(json.dumps(QUESTIONS))
    question = tree["data"][0]["paragraphs"][0]["qas"][0]
    question |= change
    if change["answers"] is ...:
        del question["answers"]
    path, report = write(tmp_path / "a.json", json.dumps(tree)), reports.empty()

    with pytest.raises(InputError, match=f"a.json .*{message}.*bad_rows=skip") as caught:
        read_lists(path, "answers")
    skipping = source(path, field="answers", bad_rows="skip")

    assert "\n" not in str(caught.value)
    answers = list(sources.documents(skipping, report, aligned=True, types=(list,)))
    assert answers == [None, [], [[1, 2, "answer"]]] and report["read"]["documents"] == 1
    assert read(path, "context")[0] == "Cats 睡觉 a lot."


@pytest.mark.parametrize(
    ("path", "settings", "count", "first"),
    [
        ("conll2003/valid.txt.gz", {"format": "conll", "field": "0"}, 3250, b"CRICKET - LEICESTERSHIRE TAKE OVER"),
        ("weibo_ner/dev.conll.gz", {"format": "conll", "field": "1"}, 270, b"O O O O"),
        ("conll2000_chunk/train.txt.gz", {"format": "conll", "field": "2"}, 8936, b"B-NP B-PP B-NP I-NP"),
        ("trec/train.txt.gz", {"format": "labelled"}, 5452, b"How did serfdom develop"),
        ("xquad/xquad.zh.json.gz", {"field": "question"}, 1190, ""),
        ("cmrc2018/cmrc2018_dev.json.gz", {"field": "question"}, 3219, "《战国无双3》是由"),
    ],
)
def test_published_data_is_read(shared_data, path, settings, count, first):
    documents = read(shared_data / path, **settings)

    assert len(documents) == count and documents[0].startswith(first)
