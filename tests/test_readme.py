"""README.md and README.zh.md: the first commands run unchanged, errors are as shown, and both have the same code."""

import ast
import os
import pydoc_data.topics
import re
import shlex
import subprocess

import pytest

from tests import documents
from tests.commands import GOLDEN, command, lm_jax, one_device
from tests.documents import CHINESE, README, blocks

TEXT = README.read_text()
both = pytest.mark.parametrize("page", [README, CHINESE], ids=lambda page: page.name)


def test_own_text_in_four_commands(tmp_path, monkeypatch, capsys):
    lines = blocks(TEXT.split("in four commands\n")[1], "sh")[0].code.strip().splitlines()
    verbs = [shlex.split(line)[1:] for line in lines]
    assert [words[0] for words in verbs] == ["tokenizer", "data", "train", "generate"]
    (tmp_path / "my.txt").write_text("\n\n".join(pydoc_data.topics.topics.values()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LM_JAX_CACHE", str(tmp_path / "cache"))

    for words in verbs[:2]:
        assert lm_jax(*words) == 0
    # The training starts as users start it, on one device.
    process = subprocess.run(command(*verbs[2]), env=one_device(), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    capsys.readouterr()
    assert lm_jax(*verbs[3]) == 0

    output = capsys.readouterr().out
    assert output.startswith("Once upon a time") and len(output.strip()) > len("Once upon a time")


def test_the_python_examples_run(tmp_path, monkeypatch):
    (tmp_path / "checkpoint").symlink_to(GOLDEN / "huggingface_gpt2")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks(TEXT, "python"):
        exec(block.code, names)
    assert names["output"].logits.shape[:2] == (1, 3)


@both
def test_a_mistake_is_reported_as_shown(page, tmp_path, monkeypatch, capsys):
    (example,) = (block.code for block in blocks(page.read_text()) if block.code.startswith("$ lm-jax"))
    typed, message = example.split("\n", 1)
    monkeypatch.chdir(tmp_path)
    assert lm_jax(*shlex.split(typed)[2:]) == 2
    assert capsys.readouterr().err == message
    assert not os.listdir(tmp_path)


def test_the_chinese_readme_has_the_same_code_in_the_same_order():
    assert [code(block) for block in blocks(CHINESE.read_text())] == [code(block) for block in blocks(TEXT)]


def code(block):
    """A block without its comments, which are translated."""
    if block.language == "sh":
        return documents.commands(block), block.reason
    return ast.dump(ast.parse(block.code)) if block.language == "python" else block.code


def test_the_chinese_readme_has_the_same_sections_links_and_tables():
    shape = lambda page: [
        re.sub(r"[^#|]", "", line) for line in page.read_text().splitlines() if line[:1] in ("#", "|")
    ]
    assert shape(CHINESE) == shape(README)
    english, chinese = (list(documents.links(page)) for page in (README, CHINESE))
    assert (english[0], chinese[0]) == (CHINESE.name, README.name)
    assert chinese[1:] == english[1:]


@both
def test_no_cell_of_a_table_has_more_than_thirty_words(page):
    cells = list(documents.words_of_cells(page))
    assert cells
    assert [cell for cell in cells if len(cell) > 30] == []
