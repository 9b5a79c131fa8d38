"""Records of several columns stay aligned if entries are empty, bad or filtered out."""

import csv
import dataclasses
import gzip
import itertools
import json

import numpy as np
import pytest

from lm_jax import experiment, flags
from lm_jax.core.config import InputError, Tree
from lm_jax.data import corpora, pipeline
from lm_jax.data.clean.chain import CleanConfig
from lm_jax.data.config import DataConfig
from lm_jax.data.mixture import MixtureConfig
from lm_jax.data.rows import Reads, RowsConfig
from lm_jax.data.tokenizers import TokenizerConfig
from lm_jax.verbs import evaluate

BYTES = TokenizerConfig(kind="bytes")
SCORED = {"text": {}, "score": {"kind": "number"}, "label": {"kind": "label"}}
NAMED = {"text": {}, "entities": {"kind": "spans"}}


def prepare(root, columns, path="stdlib", tokenizer=BYTES, progress=None, **settings):
    tree = Tree({name: Tree(column) for name, column in columns.items()})
    data = DataConfig(path=str(path), columns=tree, tokenizer=tokenizer, store=str(root), workers=1, **settings)
    return corpora.prepare(data, progress)


def make_rows(corpus, split="train", validation=0.0, plan="auto", **columns):
    reads = Reads(plan="columns", length=64, columns=columns)
    return corpora.make_rows(corpus, config=RowsConfig(plan=plan), split=split, reads=reads, validation=validation)


def decoded_rows(corpus, rows):
    """Yields all rows, texts decoded and labels as names."""
    for index in range(len(rows)):
        row = rows.row(index, 0, np.random.default_rng(0))
        decoded = {}
        for name, value in row.items():
            kind = corpus.config[name].kind
            decode = {"text": corpus.tokenizer.decode, "label": lambda label, name=name: corpus.names[name][label]}
            decoded[name] = decode.get(kind, lambda value: value.tolist())(value)
        yield decoded


@pytest.fixture
def table(tmp_path):
    """A table whose quoted cells hold line breaks, with an empty cell, bad scores, equal rows and Chinese text."""
    with open(tmp_path / "table.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [
                ("text", "score", "label"),
                ('two\nlines, "quoted"', "1.5", "10"),
                ("", "2", "9"),
                ("中文句子。第二句。", "nan", "9"),
                ("no label", "3", ""),
                ("twice", "3", "9"),
                ("twice", "3", "9"),
                ("no score", "abc", "10"),
                ("多字节。", "-4", "10"),
            ]
        )
    return tmp_path / "table.csv"


def test_records_without_empty_entries_are_rows(table, tmp_path):
    corpus = prepare(tmp_path, SCORED, table, bad_rows="skip")

    # Names that are integers are sorted by size, and equal records are not deduplicated.
    assert corpus.names == {"label": ["9", "10"], "score": []}
    assert list(decoded_rows(corpus, make_rows(corpus, text=64, score=0, label=0))) == [
        {"text": 'two\nlines, "quoted"', "score": 1.5, "label": "10"},
        {"text": "twice", "score": 3.0, "label": "9"},
        {"text": "twice", "score": 3.0, "label": "9"},
        {"text": "多字节。", "score": -4.0, "label": "10"},
    ]
    assert corpus.records == corpus.documents == 8
    assert corpus.report["read"]["documents"] == 24
    assert {reason: entry["documents"] for reason, entry in corpus.report["dropped"].items()} == {
        "empty": 2,
        "bad row (in column score)": 2,
    }
    row = make_rows(corpus, text=3, score=0, label=0).row(0, 0, np.random.default_rng(0))
    assert (row["text"].dtype, len(row["text"]), row["score"].dtype, row["label"].dtype) == ("int32", 3, "f4", "i4")
    # Validation is a share of the records, not of the rows.
    assert [len(make_rows(corpus, split, 0.5, text=9)) for split in ("train", "validation")] == [1, 3]


def test_filters_leave_empty_entries_and_stored_columns_are_reused(table, tmp_path):
    short = {"clean": CleanConfig(min_characters=6), "bad_rows": "skip"}
    corpus = prepare(tmp_path, SCORED, table, **short)

    assert [row["label"] for row in decoded_rows(corpus, make_rows(corpus, text=64, label=0))] == ["10"]
    assert corpus.report["dropped"]["short"]["documents"] == 3
    stages = []
    again = prepare(tmp_path, SCORED, table, progress=lambda *stage: stages.append(stage), **short)
    assert (stages, again.fingerprint) == ([], corpus.fingerprint)
    assert prepare(tmp_path, SCORED, table, bad_rows="skip").fingerprint != corpus.fingerprint


@pytest.mark.parametrize("document", ["line", "paragraph"])
def test_parallel_files_keep_their_empty_lines(tmp_path, document):
    between = "\n" if document == "line" else "\n\n"
    for name, lines in (("de", ["eins", "", "drei", "vier"]), ("en", ["one", "two", "three", "four"])):
        lines = lines if document == "line" else list(filter(None, lines))[:3]
        (tmp_path / f"t.{name}").write_text(between.join(lines) + "\n")
    columns = {name: {"path": str(tmp_path / f"t.{name}"), "document": document} for name in ("de", "en")}

    corpus = prepare(tmp_path, columns)

    pairs = [tuple(row.values()) for row in decoded_rows(corpus, make_rows(corpus, de=9, en=9))]
    aligned = [("eins", "one"), ("drei", "three"), ("vier", "four")]
    assert pairs == (aligned if document == "line" else [("eins", "one"), ("drei", "two"), ("vier", "three")])


def test_translations_share_a_tokenizer(shared_data, tmp_path):
    for name in ("de", "en"):
        with gzip.open(shared_data / "multi30k" / f"train.{name}.gz", "rt") as lines:
            (tmp_path / f"{name}.txt").write_text("".join(itertools.islice(lines, 300)))
    columns = {name: {"path": str(tmp_path / f"{name}.txt")} for name in ("de", "en")}
    corpus = prepare(tmp_path, columns, tokenizer=TokenizerConfig(vocab=600))

    rows = make_rows(corpus, validation=0.1, de=128, en=128)
    batch = pipeline.batch_at(rows, lambda row, rng: {name: row[name][:4] for name in row}, 0, seed=0, batch=4)

    assert (len(rows), corpus.records, set(corpus.stores)) == (270, 300, {"de", "en"})
    assert {name: array.shape for name, array in batch.items()} == {"de": (4, 4), "en": (4, 4), "row_keys": (4, 2)}
    first = next(decoded_rows(corpus, rows))
    assert first["de"].startswith("Zwei junge") and first["en"].startswith("Two young")
    # One tokenizer, trained on both languages.
    assert corpus.stores["de"].tokenizer.fingerprint == corpus.stores["en"].tokenizer.fingerprint


SENTENCES = [
    {"text": "  Angela Merkel met 王毅 in Berlin\n", "entities": [[2, 15, "PER"], [20, 22, "PER"], [26, 32, "LOC"]]},
    {"text": "nobody", "entities": []},
    {"text": "\n\nBob left", "entities": [[2, 5, "PER"]]},
    {"text": "x Bob", "entities": '[[2, 5, "PER"]]'},
    {"text": "x\r\nRene\u0301e left", "entities": [[3, 9, "PER"]]},
    # With spaces around it.
    {"text": "x Bob y", "entities": [[1, 6, "PER"]]},
]


def json_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("kind", ["bytes", "golden"])
def test_spans_refer_to_tokens_of_the_cleaned_text(tmp_path, golden, kind):
    tokenizer = BYTES if kind == "bytes" else TokenizerConfig(path=str(golden / "tokenizer"))
    corpus = prepare(tmp_path, NAMED, json_lines(tmp_path / "s.jsonl", SENTENCES), tokenizer)
    rows = make_rows(corpus, text=64, entities=0)

    spans_of_rows = []
    for index in range(len(rows)):
        row = rows.row(index, 0, np.random.default_rng(0))
        spans = [(corpus.tokenizer.decode(row["text"][a:b]).strip(), label) for a, b, label in row["entities"]]
        spans_of_rows.append([(text, corpus.names["entities"][label]) for text, label in spans])

    assert spans_of_rows == [
        [("Angela Merkel", "PER"), ("王毅", "PER"), ("Berlin", "LOC")],
        [],
        [("Bob", "PER")],
        [("Bob", "PER")],
        [("Renée", "PER")],
        [("Bob", "PER")],
    ]
    # Spans that end after the tokens that are read are left out.
    end = rows.row(0, 0, np.random.default_rng(0))["entities"][0, 1]
    assert len(make_rows(corpus, text=int(end), entities=0).row(0, 0, np.random.default_rng(0))["entities"]) == 1
    assert len(make_rows(corpus, entities=0).row(0, 0, np.random.default_rng(0))["entities"]) == 3


@pytest.mark.parametrize(
    ("columns", "records", "message"),
    [
        (
            SCORED,
            [{"text": "a", "score": 1, "label": None}],
            "columns.label: .*line 1: field 'label' is null; expected text",
        ),
        (
            SCORED,
            [{"text": "a", "score": float("nan"), "label": True}],
            "columns.score: .*r.jsonl line 1: field 'score' is nan; expected a fin",
        ),
        (
            SCORED,
            [{"text": "a", "score": True, "label": 1}],
            "columns.score: .*r.jsonl line 1: field 'score' is True; expected a finite number",
        ),
        (SCORED, [{"text": "", "score": 1, "label": 1}], "nothing is left"),
        (
            NAMED,
            [{"text": "abc", "entities": [[0, 1, "X"], [1, 9, "X"]]}],
            "line 1: field 'entities' has .1, 9, 'X'.; the text has the characters 0 to 3",
        ),
        (NAMED, [{"text": "abc", "entities": [[2, 1, "X"]]}], "expected a list of .start, end, name., start < end"),
        (NAMED, [{"text": "abc", "entities": "[[2"}], "expected a list of"),
        (NAMED, [{"text": "abc", "entities": [{"start": 0, "end": 1, "label": "X"}]}], "expected a list of"),
        (NAMED, [{"text": "a\ufeff", "entities": [[1, 2, "X"]]}], "has a span whose text cleaning drops"),
        ({"text": {}, "more": {"kind": "nmber"}}, [], "columns.more.kind is 'nmber'.*did you mean number"),
        ({"label": {"kind": "label"}}, [], "names no text"),
        ({**NAMED, "other": {}}, [], "columns.entities.of is ''; expected 'other' or 'text'"),
        ({"text": {"of": "text"}}, [], "columns.text.of is 'text'; expected ''"),
        ({"text": {"knd": "text"}}, [], "unknown key config.data.columns.text.knd; did you mean kind"),
        ({"te.xt": {}}, [], "expected a name of letters"),
        ({"text": {"field": "body"}}, [{"text": "a"}], "columns.text: .*no field 'body'"),
    ],
)
def test_invalid_columns_are_reported_in_one_line(tmp_path, columns, records, message):
    with pytest.raises(InputError, match=message) as caught:
        prepare(tmp_path, columns, json_lines(tmp_path / "r.jsonl", records))

    assert "\n" not in str(caught.value)


def test_columns_of_different_lengths_or_without_a_path_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.txt").write_text("1\n")
    columns = {"a": {"path": str(tmp_path / "a.txt")}, "b": {"path": str(tmp_path / "b.txt"), "kind": "number"}}

    with pytest.raises(
        InputError, match="differ in their number of records; expected the same number in all: a 2, b 1"
    ):
        prepare(tmp_path, columns)
    with pytest.raises(InputError, match="columns.c has no path; set config.data.columns.c.path"):
        prepare(tmp_path, {**columns, "c": {}})
    with pytest.raises(InputError, match="columns and config.data.mixture are both set"):
        DataConfig(columns=Tree(a=Tree()), mixture=MixtureConfig(sources=Tree(b=Tree(path="b"))))


def test_columns_that_an_objective_reads_have_to_exist(table, tmp_path, golden_store):
    corpus = prepare(tmp_path, SCORED, table, bad_rows="skip")

    with pytest.raises(
        InputError, match="a column 'txt' of text; config.data.columns has label .label., .*did you mean"
    ):
        make_rows(corpus, txt=9)
    with pytest.raises(InputError, match="a column 'score' of text"):
        make_rows(corpus, score=9)
    with pytest.raises(InputError, match="plan is packed, which reads one text, but config.data.columns are set"):
        make_rows(corpus, plan="packed")
    with pytest.raises(InputError, match="plan is columns, and the objective reads a, b; define them in"):
        make_rows(golden_store, a=1, b=0)
    with pytest.raises(InputError, match="and the objective reads none"):
        make_rows(corpus)
    with pytest.raises(InputError, match="leaves no record to train on"):
        make_rows(corpus, validation=1.0, text=9)


def test_columns_are_set_on_the_command_line(tmp_path):
    words = ["path=a.jsonl", "columns.text.field=body", "columns.score.kind=number"]
    recipe = flags.load_recipe("gpt:tiny")

    config = experiment.parse(flags.configure(recipe, [f"--config.data.{word}" for word in words])[0])

    assert config.data.columns["text"]["field"] == "body"
    assert config.data.name == "score, text"
    assert experiment.parse(experiment.as_json(config)) == config


def test_configured_names_fix_the_ids_of_labels(tmp_path):
    names = ("no", "yes", "perhaps")
    json_lines(tmp_path / "few.jsonl", [{"text": "a", "label": "yes"}, {"text": "b", "label": "perhaps"}])
    columns = {"text": {}, "label": {"kind": "label", "names": names}}
    corpus = prepare(tmp_path / "store", columns, tmp_path / "few.jsonl")
    rows = make_rows(corpus, text=8, label=0)
    assert [int(rows.row(index, 0, np.random.default_rng(0))["label"]) for index in range(2)] == [1, 2]
    # Another order of the names gives other ids, so the stored columns are not reused.
    reordered = {**columns, "label": {"kind": "label", "names": names[::-1]}}
    other = prepare(tmp_path / "store", reordered, tmp_path / "few.jsonl")
    assert list(other.names["label"]) == [*names[::-1]] and other.fingerprint != corpus.fingerprint
    json_lines(tmp_path / "more.jsonl", [{"text": "a", "label": "never"}])
    with pytest.raises(InputError, match="more.jsonl line 1: field 'label' has 'never'; expected one of 'perhaps', "):
        prepare(tmp_path / "store", columns, tmp_path / "more.jsonl")


def test_dev_files_have_the_tokenizer_and_the_labels_of_the_training_files(tmp_path):
    train = [{"text": f"text {number}", "label": label} for number, label in enumerate("bca")]
    columns = Tree(text=Tree(), label=Tree(kind="label"))
    data = DataConfig(
        path=str(json_lines(tmp_path / "train.jsonl", train)),
        dev=str(json_lines(tmp_path / "dev.jsonl", [{"text": "other", "label": "c"}])),
        columns=columns,
        tokenizer=TokenizerConfig(kind="characters", vocab_at_most=100),
        store=str(tmp_path),
        workers=1,
    )
    corpus = corpora.prepare(data)
    dev = corpora.prepare_dev(data, corpus)
    assert dev.tokenizer.fingerprint == corpus.tokenizer.fingerprint
    assert dev.names["label"] == corpus.names["label"] == ["a", "b", "c"]
    rows = make_rows(dev, "validation", validation=1.0, text=8, label=0)
    assert [int(rows.row(0, 0, np.random.default_rng(0))["label"]), len(rows)] == [2, 1]
    json_lines(tmp_path / "dev.jsonl", [{"text": "other", "label": "d"}])
    with pytest.raises(InputError, match=r"config.data.dev: config.data.columns.label: .*has 'd'; expected one of"):
        corpora.prepare_dev(data, corpus)
    assert corpora.prepare_dev(dataclasses.replace(data, dev=""), corpus) is None


def test_columns_with_their_own_files_have_their_own_dev_files():
    columns = Tree(de=Tree(path="a.de", dev="b.de"), en=Tree(path="a.en", dev="b.en"))
    data = DataConfig(columns=columns)
    held_out = data.held_out()
    assert {name: column["path"] for name, column in held_out.columns.items()} == {"de": "b.de", "en": "b.en"}
    assert held_out.held_out() is None and data.dev_name == "b.de, b.en"
    mixed = DataConfig(columns=Tree(text=Tree(), label=Tree(kind="label", path="l", dev="m")), dev="dev.tsv")
    assert mixed.held_out().path == "dev.tsv" and mixed.held_out().columns["label"]["path"] == "m"
    for columns, dev in ((Tree(de=Tree(path="a"), en=Tree(path="b", dev="c")), ""), (Tree(de=Tree(path="a")), "d")):
        with pytest.raises(InputError, match=r"columns\.de has no files to validate on, but other columns have; set"):
            DataConfig(columns=columns, dev=dev).held_out()
    with pytest.raises(InputError, match="config.data.dev is 'd', but the sources of config.data.mixture"):
        DataConfig(dev="d", mixture=MixtureConfig(sources=Tree(b=Tree(path="b"))))


def test_a_number_of_records_is_held_out(table, tmp_path):
    corpus = prepare(tmp_path, SCORED, table, bad_rows="skip")
    sizes = [len(make_rows(corpus, split, validation=3, label=0)) for split in ("train", "validation")]
    assert sizes == [2, 2]  # Of the last three records, one has no score.
    with pytest.raises(InputError, match="config.data.validation is 9; expected .* up to the 8 tokens or records"):
        make_rows(corpus, validation=9, label=0)


def test_evaluation_on_another_text_needs_fixed_names_and_a_shared_path():
    other, unnamed = ["--config.data.path=other.tsv"], DataConfig(columns=Tree(text=Tree(), label=Tree(kind="label")))
    with pytest.raises(InputError, match=r"columns\.label\.names is not set"):
        evaluate._check_columns(unnamed, other, ())
    with pytest.raises(InputError, match="every column has its own path"):
        evaluate._check_columns(DataConfig(columns=Tree(de=Tree(path="a"), en=Tree(path="b"))), other, ())
    evaluate._check_columns(unnamed, other, {"label"})
    names = DataConfig(columns=Tree(text=Tree(), label=Tree(kind="label", names=("a", "b"))))
    evaluate._check_columns(names, other, ())


def test_columns_that_an_earlier_version_stored_keep_their_fingerprint(tmp_path):
    records = [
        {"text": "  Ann met 王毅 \n", "score": 1.5, "label": True},
        {"text": "", "score": 2, "label": False},
        {"text": "Bob", "score": 3, "label": True},
        {"text": "x", "score": None, "label": True},
    ]
    columns = {"text": {}, "score": {"kind": "number"}, "label": {"kind": "label", "names": ("true", "false")}}

    corpus = prepare(tmp_path, columns, json_lines(tmp_path / "a.jsonl", records), bad_rows="skip")

    # Computed by the version before there were templates, tags, several labels and ids; spans have changed since.
    assert corpus.fingerprint == "81fb16971ea235f941a7de1dc5d5a059"
