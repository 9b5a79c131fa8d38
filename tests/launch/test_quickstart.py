"""The quickstart: trains, answers and prints one screen, here after a few steps."""

import re
import subprocess
import sys

import pytest

from tests.commands import ROOT, one_device


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
