"""The README's commands and its Python example, run unchanged."""

import pydoc_data.topics
import subprocess

from tests.commands import ROOT, command, one_device
from tests.documents import blocks

README = (ROOT / "README.md").read_text()


def test_own_text_in_four_commands(tmp_path):
    commands = blocks(README.split("in four commands\n")[1], "sh")[0].code.strip().splitlines()
    assert len(commands) == 4
    (tmp_path / "my.txt").write_text("\n\n".join(pydoc_data.topics.topics.values()))
    environment = {**one_device(), "LM_JAX_CACHE": str(tmp_path / "cache")}
    python = " ".join(command())

    for line in commands:
        line = line.replace("lm-jax", python, 1)
        process = subprocess.run(line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert process.returncode == 0, f"{line}\n{process.stderr}"

    assert process.stdout.startswith("Once upon a time")
    assert len(process.stdout.strip()) > len("Once upon a time")


def test_the_python_example_runs():
    names: dict = {}
    exec(blocks(README, "python")[0].code, names)
    assert names["logits"].shape == (1, 10, 1000)


def test_the_example_of_imported_weights_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    names: dict = {}
    exec(blocks(README.split("## Weights from")[1], "python")[0].code, names)
    assert names["output"].logits.shape[:2] == (1, 3)
