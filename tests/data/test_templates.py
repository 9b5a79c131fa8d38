"""Templates around the texts of a column, and what refers to these texts."""

import itertools
import json

import numpy as np
import pytest

from lm_jax.core.config import InputError, Tree
from lm_jax.data import corpora, sources, templates, texts
from lm_jax.data.clean.chain import CleanConfig
from lm_jax.data.config import DataConfig
from lm_jax.data.rows import Reads, RowsConfig
from lm_jax.data.sources import SourceConfig
from lm_jax.data.tokenizers import TokenizerConfig

QUESTION = "Question: {}\nAnswer:"


def prepare(root, columns, records, **settings):
    (root / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    tree = Tree({name: Tree(column) for name, column in columns.items()})
    settings = {"tokenizer": TokenizerConfig(kind="bytes"), "workers": 1, **settings}
    return corpora.prepare(DataConfig(path=str(root / "a.jsonl"), columns=tree, store=str(root / "store"), **settings))


def rows_of(corpus, **columns):
    reads = Reads(plan="columns", length=64, columns=columns)
    rows = corpora.make_rows(corpus, config=RowsConfig(), split="train", reads=reads, validation=0.0)
    return [rows.row(index, 0, np.random.default_rng(0)) for index in range(len(rows))]


@pytest.mark.parametrize(
    ("template", "sides"),
    [
        ("", ("", "")),
        ("{}", ("", "")),
        (QUESTION, ("Question: ", "\nAnswer:")),
        ("问：{}", ("问：", "")),
        ("{{{}}} {{}}", ("{", "} {}")),
    ],
)
def test_a_template_has_two_sides(template, sides):
    assert templates.split(template, "template") == sides


@pytest.mark.parametrize("template", ["none", "{{}}", "{} {}", "{0}", "{text}", "{!r}", "{:>3}", "{", "}{}", "{}}"])
def test_other_templates_are_refused(template):
    with pytest.raises(InputError, match="columns.text.template is .*; expected text with exactly one {}") as caught:
        DataConfig(columns=Tree(text=Tree(template=template)))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="^template is "):
        sources.check(SourceConfig(template=template))


def test_only_text_has_a_template():
    with pytest.raises(InputError, match="columns.label.template is set, but only columns of the kind text"):
        DataConfig(columns=Tree(text=Tree(), label=Tree(kind="label", template="{}!")))


def test_texts_are_put_into_the_template_and_empty_ones_stay_empty(tmp_path):
    records = [{"text": "Why {}? "}, {"text": ""}, {"text": " \n"}, {"text": "\x07\ufeff"}, {"text": "?"}]

    corpus = prepare(tmp_path, {"text": {"template": QUESTION}}, records)

    decoded = [corpus.tokenizer.decode(row["text"]) for row in rows_of(corpus, text=64)]
    assert decoded == ["Question: Why {}?\nAnswer:", "Question: ?\nAnswer:"]
    assert corpus.rows.tolist() == [0, 4] and corpus.report["dropped"]["empty"]["documents"] == 3


def test_text_in_another_encoding_is_decoded_before_it_is_put_into_the_template(tmp_path):
    (tmp_path / "a.txt").write_bytes("café\n".encode("cp1252"))
    source = SourceConfig(path=str(tmp_path / "a.txt"), document="line", template="问：{}")

    assert list(texts.prepare(tmp_path, source, CleanConfig())) == ["问：café"]


def test_only_a_template_changes_the_fingerprint(tmp_path):
    (tmp_path / "a.txt").write_text("x\n")
    plain, *others = [
        sources.fingerprint(SourceConfig(path=str(tmp_path / "a.txt"), document="line", template=template))
        for template in ("", "a {}", "b {}")
    ]

    # That of the version before there were templates.
    assert plain == "f1aea7785740842c4864b340cd902729"
    assert len({plain, *others}) == 3


SENTENCES = [
    {"text": "  Ann met 王毅 . \n", "tags": "A B C D", "spans": [[2, 5, "PER"], [10, 12, "PER"]]},
    {"text": ["Ann", "\ufeff", "x"], "tags": ["A", "B", "C"], "spans": [[0, 3, "PER"]]},
    {"text": "Context: x", "tags": "A B", "spans": [[9, 10, "PER"]]},
]


TEMPLATES = ["", "Context: {}", "x {} x", "问：{}\n\nA \n"]


@pytest.mark.parametrize(
    ("kind", "template"),
    # Of the golden tokenizer, a token may hold the end of a text and what the template puts there.
    [*itertools.product(["bytes", "golden"], TEMPLATES), ("bytes", "Ann{}Ann")],
)
def test_spans_and_tags_of_a_text_are_shifted_by_its_template(tmp_path, golden, template, kind):
    tokenizer = TokenizerConfig(kind="bytes") if kind == "bytes" else TokenizerConfig(path=str(golden / "tokenizer"))
    columns = {"text": {"template": template}, "tags": {"kind": "tags"}, "spans": {"kind": "spans"}}
    # The byte order mark changes the text inside, which spans do not allow.
    records = [{**record, "spans": [] if isinstance(record["text"], list) else record["spans"]} for record in SENTENCES]

    corpus = prepare(tmp_path, columns, records, tokenizer=tokenizer)

    pieces = {"tags": [], "spans": []}
    for row in rows_of(corpus, text=128, tags=0, spans=0):
        for name, found in pieces.items():
            found.append([corpus.tokenizer.decode(row["text"][a:b]).strip() for a, b, _ in row[name]])
    assert pieces["tags"] == [["Ann", "met", "王毅", "."], ["Ann", "", "x"], ["Context:", "x"]]
    assert pieces["spans"] == [["Ann", "王毅"], [], ["x"]]


def test_spans_outside_of_the_text_are_refused_though_the_template_is_there(tmp_path):
    columns = {"text": {"template": "Context: {} END"}, "spans": {"kind": "spans"}}
    with pytest.raises(InputError, match="line 1: field 'spans' has .*; the text has the characters 0 to 5"):
        prepare(tmp_path, columns, [{"text": " abc\n", "spans": [[2, 6, "X"]]}])
    with pytest.raises(InputError, match="has a span whose text cleaning drops"):
        prepare(tmp_path, columns, [{"text": "a\ufeffbc", "spans": [[1, 2, "X"]]}])


@pytest.mark.parametrize("text", ["Why <|user|>?", "<|assistant|> I am", "so<|assistant|>", "<|user|><|assistant|>"])
def test_a_text_cannot_write_the_markers_of_its_template(tmp_path, text):
    names = ("<|user|>", "<|assistant|>")
    columns = {"text": {"template": "<|user|>{}<|assistant|>"}, "words": {"kind": "words", "of": "text"}, "answer": {}}
    tokenizer = TokenizerConfig(kind="bytes", markers=names)
    corpus = prepare(tmp_path, columns, [{"text": text, "answer": text}], tokenizer=tokenizer)
    ids, plain = [corpus.tokenizer.pieces.index(name) for name in names], [7 + byte for byte in text.encode()]
    (row,) = rows_of(corpus, text=64, words=0, answer=64)
    assert row["text"].tolist() == [ids[0], *plain, ids[1]]
    # Nor those of another column.
    assert row["answer"].tolist() == plain
    found = [(row["text"][a:b] - 7).astype(np.uint8).tobytes().decode() for a, b, _ in row["words"]]
    assert found == text.split()
    # The markers of the template are no part of the text.
    located = corpus.located("text", 0)
    assert located.span(1, len(plain) + 1) == (0, len(text)) and located.span(0, 1) == (0, 0)
