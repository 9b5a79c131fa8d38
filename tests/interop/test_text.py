"""Imported checkpoints write the text that the reference's `generate` and `decode` wrote; stored in tests/golden."""

import json

import pytest

from tests.commands import GOLDEN, lm_jax

WORDS = 12


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_text_is_what_the_reference_wrote(family, tmp_path, capsys):
    stored = json.loads((GOLDEN / f"text_{family}" / "answers.json").read_text())
    run = tmp_path / "run"
    assert lm_jax("import", GOLDEN / f"text_{family}", f"--workdir={run}") == 0
    capsys.readouterr()
    words = ("generate", f"--workdir={run}", f"--max_tokens={WORDS}", "--temperature=0")
    assert lm_jax(*words, "--json", *(f"--prompt={one['prompt']}" for one in stored)) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert [answer["text"] for answer in answers] == [one["text"] for one in stored]
    # Alone and as it comes: the same.
    assert lm_jax(*words, f"--prompt={stored[0]['prompt']}") == 0
    assert stored[0]["text"] in capsys.readouterr().out
