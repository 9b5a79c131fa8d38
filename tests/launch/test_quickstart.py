"""The quickstart: trains, answers and prints one screen, here after a few steps."""

import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from launch import quickstart
from lm_jax.data import tokenizers
from tests.commands import ROOT, one_device

TEXT = "the string is returned, then the list; they sing in the evening, and the thing is ending " * 20


def test_a_blank_is_shown_with_words_but_scored_on_all_pieces():
    tokenizer = tokenizers.train(tokenizers.TokenizerConfig(kind="bpe", vocab_at_most=340), [TEXT])
    ids = {tokenizer.piece(token): token for token in range(tokenizer.vocab_size)}
    words = [ids[f"\u2581{word}"] for word in ("the", "in", "is", "string", "list", "a")]
    parts = [ids[piece] for piece in (",", "ing", "en", "t", "ed")]
    exp: Any = SimpleNamespace(tokenizer=tokenizer)

    assert quickstart.shown(exp, "bert", [parts[0], words[0], *parts[1:], *words[1:]]) == "the, in, is, string, list"
    question = quickstart.Question(np.array([words[1], words[0], words[2]]), 1, 2)
    assert quickstart.marked(exp, question) == "in [the] is"
    assert quickstart.right("bert", [question] * 2, [[*parts[:4], words[0]], [*parts, words[0]]]) == [True, False]


@pytest.mark.docs
def test_it_ends_with_one_screen_and_ten_examples_of_each_kind(tmp_path):
    command = [sys.executable, ROOT / "launch" / "quickstart.py", "--steps=4", f"--output={tmp_path / 'runs'}"]
    environment = {**one_device(), "LM_JAX_CACHE": str(tmp_path / "cache")}
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr

    lines = process.stdout.splitlines()
    assert len(lines) <= 25
    for kind in ("decoder", "encoder", "encoder-decoder"):
        (at,) = (number for number, line in enumerate(lines) if re.match(rf"{kind} ", line))
        assert "untrained" in "".join(lines[at : at + 3]) and "  trained" in "".join(lines[at : at + 4])
    examples = (tmp_path / "runs" / "examples.txt").read_text()
    assert examples.count("  untrained") == examples.count("  trained") == 20
    assert (tmp_path / "runs" / "loss.png").stat().st_size > 10_000
