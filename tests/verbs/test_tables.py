"""Tables of tasks with errors: one line that names file and line, exit code 2, and nothing in the work directory."""

import json
import re

import pytest

from lm_jax import experiment, flags
from tests.commands import GOLDEN, lm_jax

GOOD = {
    **{"text": "the <e1>tide</e1> and <e2>rain</e2>", "pair": "a lamp", "score": 1.5, "tags": "O B-X O O"},
    **{"choice1": "x", "choice2": "y"},
}
NAN, GONE = float("nan"), object()
# Of recipes whose files are not JSON lines.
FIELDS = [f"--config.data.columns.{name}.field={name}" for name in ("text", "tags")]
TAGS = ["--config.data.format=auto", *FIELDS]
LABELS = [
    *("--config.objective.classify.answers=labels", "--config.data.columns.label.kind=labels"),
    *("--config.task.metrics=micro_f1", "--config.evaluate.best=micro_f1"),
]
SCORES = ["--config.objective.embed.score=score", "--config.objective.embed.loss=cosine"]
SCORES += ["--config.data.columns.score.kind=number", "--config.task.metrics=pearson", "--config.evaluate.best=pearson"]

WORDS = ["--config.objective.pattern.words=0=no,1=yes"]


def squad(**question):
    """A file whose second question differs from the others."""
    answers = [{"text": "tide", "answer_start": 4}]
    questions = [{"id": f"q{number}", "question": "what?", "answers": answers} for number in (1, 2, 3)]
    questions[1] = {name: value for name, value in {**questions[1], **question}.items() if value is not GONE}
    paragraphs = [{"context": "the tide", "qas": [question]} for question in questions]
    return json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]})


# A recipe, the entries of the second record (of a table), other settings, and the message.
ROWS = {
    "no label": ("classify", {"label": GONE}, [], "line 2 has no field 'label'; it has"),
    "null": ("classify", {"label": None}, [], "line 2: field 'label' is null; expected text, an integer"),
    "a number as a label": ("classify", {"label": NAN}, [], "line 2: field 'label' is a float; expected text"),
    "several labels": ("classify", {"label": ["a"]}, [], "line 2: field 'label' is a list; expected text"),
    "no list of labels": (
        "classify",
        {"label": ["a", 1.5]},
        LABELS,
        r"line 2: field 'label' is \['a', 1.5\]; expected a",
    ),
    "no labels": ("classify", {"label": GONE}, LABELS, "line 2 has no field 'label'"),
    "null text": ("classify", {"text": None}, [], "line 2: field 'text' is null; expected text"),
    "no pair": ("pair", {"pair": GONE}, [], "line 2 has no field 'pair'"),
    "NaN": ("sts", {"score": NAN}, [], "line 2: field 'score' is nan; expected a finite number"),
    "no number": ("sts", {"score": "many"}, [], "line 2: field 'score' is 'many'; expected a finite number"),
    "tags": ("tag", {"tags": "O"}, TAGS, "line 2: field 'tags' has 1 tag, but the text has 4 words; expected a tag a"),
    "no tags": ("tag", {"tags": None}, TAGS, "line 2: field 'tags' is null; expected a list of tags"),
    "choice 2 of 0 and 1": ("choice", {"label": 2}, [], "line 2: field 'label' has '2'; expected one of '1', '0'"),
    "no choice": ("choice", {"label": "x"}, [], "line 2: field 'label' has 'x'; expected one of '1', '0'"),
    "a choice without text": ("choice", {"choice2": GONE}, [], "line 2 has no field 'choice2'"),
    "no word": ("pattern", {"label": 7}, WORDS, "line 2: field 'label' has '7'; expected one of '1', '0'"),
    "no marker": ("relation", {"text": "<e1>a</e1> b"}, [], "line 2: field 'text' has no '<e2>'; expected '<e1>' and"),
    "no relation": ("relation", {"label": GONE}, [], "line 2 has no field 'label'"),
    "no other text": ("embed", {"pair": None}, [], "line 2: field 'pair' is null; expected text"),
    "no score": ("embed", {"score": "x"}, SCORES, "line 2: field 'score' is 'x'; expected a finite number"),
    "an id twice": (
        *("classify", {"key": "1"}, ["--config.data.columns.key.kind=id"]),
        "line 2: field 'key' is '1'; expected an id for each record, but .*rows.jsonl line 1 has the same",
    ),
}
# A recipe, a file, its suffix, other settings, and the message.
FILES = {
    "short": (
        "classify",
        "text\tlabel\na\tx\nb\n",
        ".tsv",
        [],
        "line 3 has 1 column, but line 1 has 2: 'text', 'label'",
    ),
    "JSON": ("classify", '{"text": "a", "label": 0}\n{\n', ".jsonl", [], "line 2 is not JSON"),
    "conll": ("tag", "a O\nb B-X\n\nc\n", ".txt", [], "line 4 has 1 column, but line 1 has 2; expected a word and its"),
    "not there": (
        "qa",
        squad(answers=[{"text": "rain", "answer_start": 0}]),
        ".json",
        [],
        "id 'q2': .*'rain', which is",
    ),
    "before": ("qa", squad(answers=[{"text": "the", "answer_start": -3}]), ".json", [], "not at character -3 of the"),
    "no answers": ("qa", squad(answers=GONE), ".json", [], "id 'q2' has no field 'answers'"),
    "no question": ("qa", squad(question=None), ".json", [], "id 'q2': field 'question' is null"),
}
WHOLE = {
    "a header alone": (
        "classify",
        "text\tlabel\n",
        ".tsv",
        [],
        "rows.tsv holds no document; it is empty, or has a header",
    ),
    "empty": ("pair", "", ".jsonl", [], "rows.jsonl holds no document; it is empty"),
    "no column": (
        *("classify", "text\tlabel\na\tx\n", ".tsv", ["--config.data.columns.label.field=stars"]),
        "rows.tsv line 1 has no column 'stars'; it has 'text', 'label'",
    ),
    "no column of a pattern": (
        *("pattern", "text\tlabel\na\tx\nb\ty\n", ".tsv", ["--config.objective.pattern.template={title} {mask}"]),
        "the objective reads a column 'title' of text; config.data.columns has label",
    ),
    "no tag": ("tag", "a O\n", ".txt", ["--config.data.columns.tags.field=2"], "line 1 has 2 columns and no column 2"),
    "no SQuAD": ("qa", '{"text": "a"}\n', ".jsonl", [], "rows.jsonl line 1 is not in SQuAD's format"),
    "cut": ("qa", squad()[:90], ".json", [], "rows.json line 1 is not JSON"),
    "a kind": (
        *("classify", "text\tlabel\na\tx\n", ".tsv", LABELS[:1]),
        "columns.label.kind is 'label', but the objective 'classify' learns answers of the kind 'labels'; set it",
    ),
}
DEV = {
    "label": ("classify", {"label": 7}, [], "dev.jsonl line 2: field 'label' has '7'; expected one of"),
    "labels": ("classify", {"label": "1, 7"}, LABELS, "dev.jsonl line 2: field 'label' has '7'; expected one of"),
    "tag": ("tag", {"tags": "O B-Y O O"}, TAGS, "dev.jsonl line 2: field 'tags' has 'B-Y'; expected one of 'B-X', 'O'"),
    "choice": ("choice", {"label": 3}, [], "dev.jsonl line 2: field 'label' has '3'; expected one of '1', '0'"),
    "marker": ("relation", {"text": "a <e2>b</e2>"}, [], "dev.jsonl line 2: field 'text' has no '<e1>'"),
}


def lines(*second):
    """JSON lines of records, of which the second one is bad."""
    records = [{**GOOD, "key": str(number), "label": str(number % 2)} for number in (1, 2, 3, 4)]
    for over in second:
        records[1] = {name: value for name, value in {**records[1], **over}.items() if value is not GONE}
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Settings of all commands."""
    store = tmp_path_factory.mktemp("store")
    return [
        f"--config.data.store={store}",
        "--config.data.workers=1",
        f"--config.data.tokenizer.path={GOLDEN / 'tokenizer'}",
    ]


def check(recipe, words, message, tmp_path, capsys):
    """Trains; there is no other output than one line of the message."""
    capsys.readouterr()
    workdir = tmp_path / "run"
    assert lm_jax("train", f"--config={recipe}:tiny", f"--workdir={workdir}", *words) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if not line.endswith(" ...")]
    assert len(error) == 1 and re.search(message, error[0]), error
    assert not workdir.exists()


def prepared(recipe, words):
    config, _ = flags.configure(flags.load_recipe(f"{recipe}:tiny"), words)
    return experiment.prepare(experiment.parse(config))


def skipping(corpus):
    """How many records a corpus has, and how many of them give a row; the bad ones are counted."""
    dropped = sum(entry["documents"] for reason, entry in corpus.report["dropped"].items() if "bad row" in reason)
    assert dropped >= 1
    return corpus.records, len(corpus.rows)


@pytest.mark.parametrize("case", ROWS)
def test_a_bad_record_is_one_line_or_left_out(case, words, tmp_path, capsys):
    recipe, over, settings, message = ROWS[case]
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(over))
    words = [*words, *settings, f"--config.data.path={path}"]
    check(recipe, words, f"rows.jsonl {message}.*; config.data.bad_rows=skip", tmp_path, capsys)
    exp = prepared(recipe, [*words, "--config.data.bad_rows=skip"])
    assert skipping(exp.store) == (4, 3)


@pytest.mark.parametrize("case", FILES)
def test_a_bad_row_of_a_file_is_one_line_or_left_out(case, words, tmp_path, capsys):
    recipe, content, suffix, settings, message = FILES[case]
    path = tmp_path / f"rows{suffix}"
    path.write_text(content)
    words = [*words, *settings, f"--config.data.path={path}"]
    check(recipe, words, f"rows{suffix} .*{message}.*; config.data.bad_rows=skip", tmp_path, capsys)
    records, rows = skipping(prepared(recipe, [*words, "--config.data.bad_rows=skip"]).store)
    assert records == rows + 1


@pytest.mark.parametrize("case", WHOLE)
def test_a_file_that_is_bad_as_a_whole_is_one_line(case, words, tmp_path, capsys):
    recipe, content, suffix, settings, message = WHOLE[case]
    path = tmp_path / f"rows{suffix}"
    path.write_text(content)
    for skip in ([], ["--config.data.bad_rows=skip"]):
        check(recipe, [*words, *settings, f"--config.data.path={path}", *skip], message, tmp_path, capsys)


@pytest.mark.parametrize("case", DEV)
def test_bad_records_to_validate_on_are_one_line_or_left_out(case, words, tmp_path, capsys):
    recipe, over, settings, message = DEV[case]
    for name, content in (("rows", lines()), ("dev", lines(over))):
        (tmp_path / f"{name}.jsonl").write_text(content)
    paths = [f"--config.data.path={tmp_path / 'rows.jsonl'}", f"--config.data.dev={tmp_path / 'dev.jsonl'}"]
    words = [*words, *settings, *paths]
    check(recipe, words, f"config.data.dev: config.data.columns.*{message}.*=skip", tmp_path, capsys)
    exp = prepared(recipe, [*words, "--config.data.bad_rows=skip"])
    assert skipping(exp.dev) == (4, 3) and len(exp.store.rows) == 4


def test_a_byte_order_mark_and_line_ends_of_windows_are_no_text(words, tmp_path):
    tables = {
        ".tsv": "\ufefftext\tlabel\r\nthe tide\ta\r\nrain\tb\r\n",
        ".csv": '\ufefftext,label\r\n"the tide",a\r\nrain,b\r\n',
        ".jsonl": '\ufeff{"text": "the tide", "label": "a"}\r\n{"text": "rain", "label": "b"}\r\n',
    }
    for suffix, content in tables.items():
        (tmp_path / f"rows{suffix}").write_bytes(content.encode())
        corpus = prepared("classify", [*words, f"--config.data.path={tmp_path / f'rows{suffix}'}"]).store
        texts = [corpus.tokenizer.decode(corpus.read("text", record, 99)) for record in (0, 1)]
        assert texts == ["the tide", "rain"] and list(corpus.names["label"]) == ["a", "b"]
    (tmp_path / "rows.txt").write_bytes("\ufeffa O\r\nb B-X\r\n\r\nc O\r\n".encode())
    corpus = prepared("tag", [*words, f"--config.data.path={tmp_path / 'rows.txt'}"]).store
    assert corpus.records == 2 and list(corpus.names["tags"]) == ["B-X", "O"]


def test_the_labels_of_choices_are_their_numbers_though_the_file_lacks_some(words, tmp_path):
    (tmp_path / "rows.jsonl").write_text(lines() + lines())
    kept = [line for line in (tmp_path / "rows.jsonl").read_text().splitlines(True) if '"label": "1"' in line]
    (tmp_path / "rows.jsonl").write_text("".join(kept))
    path = f"--config.data.path={tmp_path / 'rows.jsonl'}"
    corpus = prepared("choice", [*words, path]).store
    assert [int(corpus.read("label", record, 9)) for record in range(2)] == [1, 1]
    corpus = prepared("choice", [*words, path, "--config.data.columns.label.names=1,2"]).store
    assert [int(corpus.read("label", record, 9)) for record in range(2)] == [0, 0]
