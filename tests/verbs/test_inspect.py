"""Comparison of runs: results, differences of their configurations, curves."""

import io
import json

from lm_jax.train.logging import Logger
from tests.commands import lm_jax


def run(directory, depth, losses):
    with Logger(directory, total=9, names=["jsonl"], stream=io.StringIO()) as logger:
        for step, loss in enumerate(losses, 1):
            logger.write(step, {"train/loss": loss, "train/learning_rate": 1e-4})
            logger.write(step, {"val/loss": loss + 0.5})
    (directory / "config.json").write_text(json.dumps({"model": {"depth": depth}, "seed": 0}))
    return directory


def test_runs_are_compared_by_results_and_configurations(tmp_path, capsys):
    first, second = run(tmp_path / "a", 2, [3.0, 2.0, 2.5]), run(tmp_path / "b", 4, [3.0, 1.5])
    assert lm_jax("inspect", first, second) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["a", "b"]
    rows = {line.split("  ")[0]: line.split()[-2:] for line in lines}
    assert rows["train/loss"] == ["2.5000", "1.5000"]
    assert rows["val/loss best"] == ["2.5000", "2.0000"] and rows["val/loss best at"] == ["2", "2"]
    assert rows["model.depth"] == ["2", "4"]
    assert (first / "plots" / "compared.png").read_bytes().startswith(b"\x89PNG")


def test_json_has_all_differences(tmp_path, capsys):
    first, second = run(tmp_path / "a", 2, [3.0]), run(tmp_path / "b", 4, [3.0])
    assert lm_jax("inspect", first, second, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["differences"] == {"b": ["config.model.depth: 2 -> 4"]}
    assert set(document) == {"runs", "differences", "plot"} and document["runs"]["b"]["val/loss best at"] == 1


def test_json_is_one_strict_document(tmp_path, capsys):
    diverged = run(tmp_path / "a", 2, [3.0, float("nan")])
    assert lm_jax("inspect", f"--workdir={diverged}", "--json") == 0

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    document = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert document["runs"]["a"]["train/loss"] == "nan" and document["differences"] == {}


def test_a_recipe_and_a_run_are_not_shown_together(tmp_path, capsys):
    assert lm_jax("inspect", "--config=gpt:tiny", tmp_path) == 2
    assert "a recipe or runs" in capsys.readouterr().err
