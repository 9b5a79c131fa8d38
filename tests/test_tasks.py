"""Recipes of tasks train on small tables and answer new rows."""

import json

import pytest

from tests.commands import lm_jax

ROWS = 24
WORDS = ("tide", "lamp", "harbour", "bridge", "rain", "shop")
QUICK = [
    "--config.train.steps=2",
    "--config.evaluate.batches=1",
    "--config.data.validation=8",
    "--config.data.workers=1",
]


def record(number):
    """A row with the fields of every recipe."""
    first, second = WORDS[number % 6], WORDS[(number + 1) % 6]
    text = f"the {first} is near the {second}"
    return {
        "text": text,
        "pair": f"a {second} by the {first}",
        "label": number % 2,
        "score": number / 4,
        "tags": "O B-X O O O B-X",
        "choice1": first,
        "choice2": second,
        "source": text,
        "target": f"{second} {first}",
        "dialogue": text,
        "summary": f"{second} {first}",
        "context": text,
        "response": first,
        "question": f"what is near the {second}?",
        "answer": first,
    }


def table(path, rows, form):
    """Writes rows in the format of a recipe."""
    if form == "squad":
        questions = [
            {"context": row["text"], "qas": [{"id": str(number), "question": row["question"], **answers(row)}]}
            for number, row in enumerate(rows)
        ]
        path.write_text(json.dumps({"data": [{"title": "near", "paragraphs": questions}]}))
    elif form == "conll":
        pairs = [zip(row["text"].split(), row["tags"].split(), strict=True) for row in rows]
        path.write_text("\n".join("".join(f"{word} {tag}\n" for word, tag in words) for words in pairs))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answers(row):
    return {"answers": [{"text": row["answer"], "answer_start": row["text"].index(row["answer"])}]}


# By recipe: the format of its file, the fields of its answers, other settings.
slow, BUCKETS = pytest.mark.slow, "--config.data.buckets=24"
WITHOUT_METRICS = ("--config.task.metrics=", "--config.evaluate.best=loss")
RECIPES = [
    ("classify", "jsonl", {"label", "scores"}, []),
    pytest.param("tag", "conll", {"tags", "scores"}, [], marks=slow),
    pytest.param("qa", "squad", {"answer", "start", "stop", "score", "null"}, [], marks=slow),
    pytest.param("instruct", "jsonl", {"text"}, [*WITHOUT_METRICS, BUCKETS], marks=slow),
    pytest.param("pair", "jsonl", {"label", "scores"}, [], marks=slow),
    pytest.param("sts", "jsonl", {"number"}, [], marks=slow),
    pytest.param("choice", "jsonl", {"label", "choice", "scores"}, [], marks=slow),
    pytest.param("pattern", "jsonl", {"label", "scores"}, [], marks=slow),
    pytest.param("relation", "jsonl", {"label", "scores"}, [], marks=slow),
    pytest.param("embed", "jsonl", {"cosine"}, [], marks=slow),
    pytest.param("translate", "jsonl", {"text"}, [], marks=slow),
    pytest.param("summarise", "jsonl", {"text"}, [], marks=slow),
    pytest.param("dialogue", "jsonl", {"text"}, [], marks=slow),
]


@pytest.mark.parametrize(("recipe", "form", "fields", "settings"), RECIPES)
def test_a_recipe_trains_and_answers_new_rows(recipe, form, fields, settings, tmp_path, monkeypatch):
    monkeypatch.setenv("LM_JAX_CACHE", str(tmp_path / "cache"))
    rows = [record(number) for number in range(ROWS)]
    if recipe == "relation":
        rows = [{**row, "text": "the <e1>{choice1}</e1> is near the <e2>{choice2}</e2>".format(**row)} for row in rows]
    suffix = {"conll": ".txt", "squad": ".json"}.get(form, ".jsonl")
    path, new = table(tmp_path / f"rows{suffix}", rows, form), tmp_path / "new.jsonl"
    new.write_text("".join(json.dumps({**row, "context": row["text"]}) + "\n" for row in rows[:5]))
    run, output = tmp_path / "run", tmp_path / "answers.jsonl"

    words = [f"--config={recipe}:tiny", f"--workdir={run}", f"--config.data.path={path}", *QUICK, *settings]
    assert lm_jax("train", *words) == 0
    limit = ["--max_tokens=4"] if fields == {"text"} else []
    assert lm_jax("predict", f"--workdir={run}", f"--input={new}", f"--output={output}", *limit) == 0

    predicted = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(predicted) == 5 and all({*answer} == fields for answer in predicted)
    if recipe == "tag":
        assert all(len(answer["tags"]) == 6 for answer in predicted)
    assert any("val/loss" in line for line in (run / "metrics.jsonl").read_text().splitlines())
