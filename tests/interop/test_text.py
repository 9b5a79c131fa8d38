"""Imported checkpoints write the same text as the reference's `generate` and `decode`, stored in tests/golden."""

import json

import pytest

from tests.commands import GOLDEN, lm_jax

MAX_TOKENS = 12


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_text_equals_the_references(family, tmp_path, capsys):
    stored = json.loads((GOLDEN / f"text_{family}" / "answers.json").read_text())
    run = tmp_path / "run"
    assert lm_jax("import", GOLDEN / f"text_{family}", f"--workdir={run}") == 0
    capsys.readouterr()
    command = ("generate", f"--workdir={run}", f"--max_tokens={MAX_TOKENS}", "--temperature=0")
    assert lm_jax(*command, "--json", *(f"--prompt={answer['prompt']}" for answer in stored)) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert [answer["text"] for answer in answers] == [answer["text"] for answer in stored]
    # A single prompt, whose answer is streamed, gives the same text.
    assert lm_jax(*command, f"--prompt={stored[0]['prompt']}") == 0
    assert stored[0]["text"] in capsys.readouterr().out
