"""The README's commands and its Python example, run unchanged."""

import pydoc_data.topics
import re
import subprocess

from tests.commands import ROOT, command, one_device

README = (ROOT / "README.md").read_text()


def test_own_text_in_four_commands(tmp_path):
    block = re.search(r"in four commands\n\n```sh\n(.*?)```", README, re.DOTALL)
    assert block is not None
    commands = block[1].strip().splitlines()
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
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert block is not None
    names: dict = {}
    exec(block[1], names)
    assert names["logits"].shape == (1, 10, 1000)


def test_the_example_of_imported_weights_runs(monkeypatch):
    block = re.search(r"```python\n(.*?interop\.load.*?)```", README.split("## Weights from")[1], re.DOTALL)
    assert block is not None
    monkeypatch.chdir(ROOT)
    names: dict = {}
    exec(block[1], names)
    assert names["output"].logits.shape[:2] == (1, 3)


def test_files_that_the_documents_name_exist():
    names = re.compile(r"(?<![\w/])(?:configs|launch|benchmarks|tests|docs|lm_jax)/[\w./-]+\.(?:py|sh|md)")
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for path in names.findall(document.read_text()):
            assert (ROOT / path).exists(), f"{document.name} names {path}"
