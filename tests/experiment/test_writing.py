"""Runs that write texts: chat templates, what the loss reads, and the metrics of an evaluation."""

import dataclasses
import gzip
import itertools
import json

import numpy as np
import pytest

from lm_jax import experiment, flags
from lm_jax.core.config import InputError
from lm_jax.data.tasks import ASSISTANT, USER
from lm_jax.evaluate import metrics
from lm_jax.experiment import writing
from lm_jax.experiment.evaluators import originals

ROWS = [
    {"question": f"How much is {number} plus {number}? ", "answer": f"{number} + {number}\n#### {2 * number}  "}
    for number in range(20)
]


def prepared(folder, rows, *words):
    """The experiment of the recipe `instruct:tiny` on rows of questions and answers."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        f"--config.data.path={folder / 'rows.jsonl'}",
        f"--config.data.store={folder / 'store'}",
        "--config.data.workers=1",
        "--config.data.threads=0",
        "--config.data.tokenizer.kind=bytes",
        "--config.data.batch=8",
        *words,
    ]
    config, _ = flags.configure(flags.load_recipe("instruct:tiny"), words)
    return experiment.prepare(experiment.parse(config))


def learned(exp, row):
    """The text that the model reads, and the ids that it learns to predict."""
    return exp.tokenizer.decode(row["tokens"]), row["targets"][row["weights"] > 0]


def test_a_chat_has_markers_of_one_token_and_learns_the_answer_alone(tmp_path):
    exp = prepared(tmp_path, ROWS, "--config.data.length=128", "--config.data.validation=0")
    rows, tokenizer = exp.feed.rows("train"), exp.tokenizer
    user, assistant = (tokenizer.pieces.index(marker) for marker in (USER, ASSISTANT))
    assert {user, assistant} == {tokenizer.vocab_size - 1, tokenizer.vocab_size - 2}

    for index in range(3):
        row = exp.objective.features(rows.row(index, 0, np.random.default_rng(0)), np.random.default_rng(0))
        text, targets = learned(exp, row)
        tokens = row["tokens"].tolist()
        assert tokens[0] == user and tokens.count(user) == tokens.count(assistant) == 1
        assert tokens.index(assistant) == row["prefix"] - 1 == np.flatnonzero(row["weights"])[0]
        answer = f"{index} + {index}\n#### {2 * index}"
        assert text == f"{USER}How much is {index} plus {index}? {ASSISTANT}{answer}"
        assert tokenizer.decode(targets) == answer and targets[-1] == tokenizer.eos


def test_a_prompt_of_generate_is_put_into_the_template(tmp_path):
    exp = prepared(tmp_path, ROWS)
    assert writing.source(exp, " Why? ") == f"{USER} Why? {ASSISTANT}"
    other = prepared(tmp_path, ROWS, "--config.data.columns.source.template={}")
    assert writing.source(other, " Why? ") == " Why? "


def test_a_real_problem_is_a_chat(shared_data, tmp_path):
    with gzip.open(shared_data / "gsm8k" / "test.jsonl.gz", "rt") as file:
        problems = [json.loads(line) for line in itertools.islice(file, 20)]
    exp = prepared(tmp_path, problems, "--config.data.length=2048", "--config.data.validation=0")
    rows = exp.feed.rows("train")
    for index, problem in enumerate(problems):
        row = exp.objective.features(rows.row(index, 0, np.random.default_rng(0)), np.random.default_rng(0))
        text, targets = learned(exp, row)
        question, answer = (" ".join(each.split()) for each in problem.values())
        assert " ".join(text.split()) == f"{USER}{question}{ASSISTANT}{answer}"
        assert exp.tokenizer.decode(targets).rpartition("####")[2] == problem["answer"].rpartition("####")[2]
        assert originals(rows.part(index, index + 1), "target") == [problem["answer"]]


def test_an_evaluation_scores_the_texts_for_the_first_held_out_rows(tmp_path):
    words = ["--config.data.validation=0.5", "--config.task.metrics=exact_match,chrf", "--config.data.length=64"]
    exp = prepared(tmp_path, ROWS, *words, "--config.task.generated=3", "--config.objective.seq2seq.target_length=8")
    weights, evaluator = exp.fresh_state().weights, exp.validation()
    asked = []
    write = lambda weights, rows: asked.append(rows) or evaluator.write(weights, rows)
    values = dict(dataclasses.replace(evaluator, write=write).run(weights))

    (rows,) = asked
    raw = [row["answer"] for row in ROWS[10:13]]
    assert rows.numbers.tolist() == [10, 11, 12] and originals(rows, "target") == raw
    texts = writing.of(exp).texts(weights, rows)
    expected = metrics.compute("text", ["exact_match", "chrf"], texts, [[text.strip()] for text in raw], ())
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    assert tuple(values) == evaluator.values(exp.state_like.weights, exp.batch_like)


def test_without_metrics_nothing_is_generated(tmp_path):
    exp = prepared(tmp_path, ROWS, "--config.task.metrics=()", "--config.evaluate.best=loss")
    assert type(exp.validation()).__name__ == "LanguageModelling"


def test_an_unknown_metric_is_refused_before_training(tmp_path):
    exp = prepared(tmp_path, ROWS, "--config.task.metrics=accuracy", "--config.evaluate.best=loss")
    with pytest.raises(InputError, match="config.task.metrics is 'accuracy'; expected one of bleu, chrf"):
        exp.check()
