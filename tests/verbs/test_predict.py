"""`lm-jax predict`: answers in the order of the rows, continued files, and one-line errors."""

import json
import re

import pytest
import workdirs

from lm_jax import experiment
from lm_jax.core.config import Tree
from lm_jax.data import lengths, tokenizers
from lm_jax.data.config import DataConfig
from lm_jax.experiment import Experiment
from lm_jax.objectives import ObjectiveConfig
from lm_jax.objectives.seq2seq import Seq2SeqConfig
from lm_jax.verbs import predict
from tests.commands import GOLDEN, lm_jax

# One batch has eight rows, and one chunk fewer rows than a file.
BATCH, CHUNK = 8, 10
TEXTS = [" ".join(["the statement is"] * (1 + number % 5)) + f" {number}" for number in range(23)]
COLUMNS = {
    "classify": Tree(text=Tree(), label=Tree(kind="label")),
    "seq2seq": Tree(source=Tree(field="text"), target=Tree()),
}


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.load(GOLDEN / "tokenizer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("predict")


def drawn(folder, name, preset, tokenizer, objective, **over):
    """The directory of a run of a task, with random parameters."""
    data = DataConfig(
        length=64, batch=BATCH, columns=COLUMNS[objective.name], store=str(folder / "store"), workers=1, threads=0
    )
    labels = Tree(label=("bad", "good")) if objective.name == "classify" else None
    workdirs.draw(folder / name, preset, tokenizer, objective=objective, data=data, labels=labels, **over)
    return folder / name


@pytest.fixture(scope="module")
def classifier(folder, tokenizer):
    return drawn(folder, "classifier", "bert", tokenizer, ObjectiveConfig(name="classify"), stack__depth=1)


@pytest.fixture(scope="module")
def writers(folder, tokenizer):
    """A decoder and an encoder-decoder that write short texts."""
    settings = ObjectiveConfig(name="seq2seq", seq2seq=Seq2SeqConfig(target_length=6))
    # A tied read-out only repeats the last token.
    untied = {"readout__tied": False}
    once = {"encoder__depth": 1, "decoder__depth": 1, **untied}
    return {
        "decoder": drawn(folder, "decoder", "gpt2", tokenizer, settings, stack__depth=1, **untied),
        "encoder_decoder": drawn(folder, "encoder_decoder", "t5", tokenizer, settings, **once),
    }


# Before tests replace it.
CHUNK_OF = predict.chunk_of


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(predict, "chunk_of", lambda exp: CHUNK)
    monkeypatch.setattr(predict, "TEXTS", CHUNK)


def write_rows(path, texts=TEXTS):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def answers(workdir, rows, output, *words):
    assert lm_jax("predict", f"--workdir={workdir}", f"--input={rows}", f"--output={output}", *words) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_answers_have_the_order_of_the_rows_and_do_not_depend_on_the_others(classifier, tmp_path):
    forwards = answers(classifier, write_rows(tmp_path / "rows.jsonl"), tmp_path / "a.jsonl")
    backwards = answers(classifier, write_rows(tmp_path / "back.jsonl", TEXTS[::-1]), tmp_path / "b.jsonl")

    assert len(forwards) == len(TEXTS) and len({row["scores"]["good"] for row in forwards}) > len(TEXTS) // 2
    for one, other in zip(forwards, backwards[::-1], strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-6)
        assert one["label"] == max(one["scores"], key=one["scores"].get) and sum(one["scores"].values()) == (
            pytest.approx(1)
        )


@pytest.fixture
def sizes(monkeypatch):
    """The lengths of the batches that are computed."""
    computed, put = [], Experiment.put
    monkeypatch.setattr(
        Experiment, "put", lambda exp, batch: computed.append(batch["tokens"].shape[1]) or put(exp, batch)
    )
    return computed


def test_batches_are_cut_and_answers_are_those_of_whole_batches(classifier, tmp_path, sizes, monkeypatch):
    rows = write_rows(tmp_path / "rows.jsonl")
    cut = answers(classifier, rows, tmp_path / "cut.jsonl")
    # Few rows have one length.
    assert len(set(sizes)) == 1 and sizes[0] < 64
    sizes.clear()
    monkeypatch.setattr(lengths, "economical", lambda sizes, longest: (longest,))
    whole = answers(classifier, rows, tmp_path / "whole.jsonl")
    assert {*sizes} == {64}
    for one, other in zip(cut, whole, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-6)


def test_more_short_rows_are_answered_together(classifier, tmp_path):
    texts = {"short": ["it"] * 9, "long": ["the statement is " * 40] * 9}
    exp = experiment.load(classifier)
    chunks = [
        CHUNK_OF(predict.with_rows(exp, str(write_rows(tmp_path / f"{name}.jsonl", each))))
        for name, each in texts.items()
    ]
    assert chunks[1] == predict.CHUNK and chunks[0] > 10 * predict.CHUNK


def test_rows_of_similar_length_share_batches(classifier, tmp_path, sizes, monkeypatch):
    rows = write_rows(tmp_path / "rows.jsonl")
    monkeypatch.setattr(predict, "chunk_of", lambda exp: len(TEXTS))
    expected = answers(classifier, rows, tmp_path / "expected.jsonl")
    sizes.clear()
    monkeypatch.setattr(lengths, "PROGRAM", 0)
    found = answers(classifier, rows, tmp_path / "answers.jsonl")
    assert sizes == sorted(sizes) and len(set(sizes)) > 1
    for one, other in zip(found, expected, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-6)


def test_rows_without_text_have_empty_answers(classifier, tmp_path, capsys):
    rows = write_rows(tmp_path / "rows.jsonl", ["", "the statement", " \n", "is", "", ""])
    found = answers(classifier, rows, tmp_path / "answers.jsonl")
    assert [bool(row) for row in found] == [False, True, False, True, False, False]
    assert "4 of them are {}, because a column of the row is empty" in capsys.readouterr().err


def interrupted(monkeypatch, workdir, rows, output, *words):
    """Starts a command that ends after its first chunk; returns the file that it leaves behind."""

    def once(file, answers):
        append(file, answers)
        raise KeyboardInterrupt

    append = predict._append
    with monkeypatch.context() as patch:
        patch.setattr(predict, "_append", once)
        lm_jax("predict", f"--workdir={workdir}", f"--input={rows}", f"--output={output}", *words)
    (partial,) = output.parent.glob(f"{output.name}.*.partial")
    return partial


def test_an_interrupted_file_is_continued(classifier, tmp_path, capsys, monkeypatch):
    rows = write_rows(tmp_path / "rows.jsonl")
    expected = answers(classifier, rows, tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    partial = interrupted(monkeypatch, classifier, rows, tmp_path / "cut.jsonl")
    assert partial.read_text() == "".join(lines[:CHUNK])
    # The command was killed in line 13.
    partial.write_text("".join(lines[:12]) + lines[12][:9])
    counted = []
    described = predict.Answering.described
    count = lambda self, weights, part: counted.append(len(part)) or described(self, weights, part)
    monkeypatch.setattr(predict.Answering, "described", count)

    continued = answers(classifier, rows, tmp_path / "cut.jsonl")

    # The rows of the interrupted chunk share their batches with the same rows as before.
    assert continued == expected and counted == [CHUNK, len(TEXTS) - 2 * CHUNK]
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not partial.exists()
    assert f"{partial} has the answers to 10 of 23 rows; the others follow" in capsys.readouterr().out


@pytest.mark.slow
def test_answers_of_another_command_are_not_continued(classifier, writers, tmp_path, capsys, monkeypatch):
    rows, output = write_rows(tmp_path / "rows.jsonl"), tmp_path / "a.jsonl"
    others = write_rows(tmp_path / "others.jsonl", TEXTS[::-1])

    def refused(workdir, rows, *words):
        capsys.readouterr()
        assert lm_jax("predict", f"--workdir={workdir}", f"--input={rows}", f"--output={output}", *words) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"{partial} has answers of another command" in error
        return True

    partial = interrupted(monkeypatch, classifier, rows, output)
    before = partial.read_bytes()
    assert refused(classifier, others) and refused(writers["decoder"], rows)
    assert refused(classifier, rows, "--config.objective.classify.markers=e")
    # Another batch gives the same answers.
    assert answers(classifier, rows, output, "--config.data.batch=16") and before
    assert not [*tmp_path.glob("*.partial")]
    partial = interrupted(monkeypatch, writers["decoder"], rows, output, "--max_tokens=3")
    assert refused(writers["decoder"], rows, "--max_tokens=4") and refused(writers["decoder"], rows)
    assert answers(writers["decoder"], rows, output, "--max_tokens=3")


def test_chunks_of_empty_rows_have_empty_answers(classifier, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", [*[""] * CHUNK, "the statement"])
    assert [bool(row) for row in answers(classifier, rows, tmp_path / "a.jsonl")] == [False] * CHUNK + [True]


def test_without_an_output_the_answers_are_printed(classifier, tmp_path, capsys):
    rows = write_rows(tmp_path / "rows.jsonl", TEXTS[:2])
    assert lm_jax("predict", f"--workdir={classifier}", f"--input={rows}") == 0
    assert [json.loads(line)["label"] in ("bad", "good") for line in capsys.readouterr().out.splitlines()] == [True] * 2


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ('{"words": "a"}\n', [], "columns.text: .*'text'"),
        ("", [], "rows.jsonl"),
        ('{"text": "a"}\n', ["--max_tokens=3"], "--max_tokens is for runs that write texts, and this .* 'classify'"),
        ('{"text": "a"}\n', ["--temperature=0"], "--temperature is for runs that write texts"),
    ],
)
def test_bad_input_is_one_line(classifier, tmp_path, capsys, content, words, message):
    (tmp_path / "rows.jsonl").write_text(content)
    words = [
        f"--workdir={classifier}",
        f"--input={tmp_path / 'rows.jsonl'}",
        f"--output={tmp_path / 'a.jsonl'}",
        *words,
    ]
    assert lm_jax("predict", *words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(message, error), error
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.parametrize("kind", ["decoder", pytest.param("encoder_decoder", marks=pytest.mark.slow)])
def test_the_text_for_a_source_is_what_generate_gives(writers, kind, tmp_path, capsys):
    texts = [*TEXTS[:12], "", *TEXTS[12:]]
    rows = write_rows(tmp_path / "rows.jsonl", texts)
    found = answers(writers[kind], rows, tmp_path / "answers.jsonl")
    assert found.pop(12) == {} and len({row["text"] for row in found}) > 3

    (tmp_path / "prompts.txt").write_text("".join(text + "\n" for text in TEXTS))
    capsys.readouterr()
    words = ("--temperature=0", "--max_tokens=6", "--json")
    assert lm_jax("generate", f"--workdir={writers[kind]}", f"--input={tmp_path / 'prompts.txt'}", *words) == 0
    generated = json.loads(capsys.readouterr().out)["answers"]
    assert [row["text"] for row in found] == [row["text"] for row in generated]


@pytest.mark.slow
def test_a_draw_depends_on_the_seed_and_the_record_only(writers, tmp_path, monkeypatch):
    rows = write_rows(tmp_path / "rows.jsonl")
    words = ("--temperature=1", "--seed=3", "--max_tokens=4")
    first = answers(writers["decoder"], rows, tmp_path / "a.jsonl", *words)
    interrupted(monkeypatch, writers["decoder"], rows, tmp_path / "b.jsonl", *words)
    assert answers(writers["decoder"], rows, tmp_path / "b.jsonl", *words) == first
    assert answers(writers["decoder"], rows, tmp_path / "c.jsonl", *words[:1], "--seed=4", words[2]) != first


def test_sampling_without_a_temperature_is_refused(writers, tmp_path, capsys):
    rows = write_rows(tmp_path / "rows.jsonl")
    assert lm_jax("predict", f"--workdir={writers['decoder']}", f"--input={rows}", "--top_k=3") == 2
    assert "--top_k is for sampling, but predict is greedy; set --temperature=1 too" in capsys.readouterr().err


def test_pretraining_runs_give_no_answers(folder, tokenizer, tmp_path, capsys):
    workdirs.draw(folder / "pretrained", "gpt2", tokenizer, stack__depth=1)
    rows = write_rows(tmp_path / "rows.jsonl")
    assert lm_jax("predict", f"--workdir={folder / 'pretrained'}", f"--input={rows}") == 2
    assert "objective 'causal', which gives no answers" in capsys.readouterr().err


def test_the_longest_source_fits_the_positions_of_a_decoder(folder, tokenizer, tmp_path):
    settings = ObjectiveConfig(name="seq2seq", seq2seq=Seq2SeqConfig(target_length=6))
    full = drawn(folder, "full", "gpt2", tokenizer, settings, stack__depth=1, embed__max_length=64)
    rows = write_rows(tmp_path / "rows.jsonl", ["the statement is " * 40, "it"])
    assert [list(row) for row in answers(full, rows, tmp_path / "answers.jsonl")] == [["text"], ["text"]]
