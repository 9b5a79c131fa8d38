"""Completion in real shells, without heavy imports."""

import shutil
import subprocess
import sys

import pytest

from lm_jax.main import VERBS
from lm_jax.verbs.completion import answer
from tests.commands import ROOT, lm_jax


@pytest.fixture
def shell(tmp_path):
    """Environment variables with an `lm-jax` command on the PATH."""
    command = tmp_path / "lm-jax"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m lm_jax.main "$@"\n')
    command.chmod(0o755)
    return {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}


def bash(shell, line):
    """Returns what bash inserts for the last part of `line`, which it splits at `COMP_WORDBREAKS`."""
    script = f"""
    eval "$(lm-jax completion bash)"
    COMP_LINE={line!r} COMP_POINT={len(line)}
    _lm_jax 2>/dev/null
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    process = subprocess.run(["bash", "-c", script], env=shell, capture_output=True, text=True, timeout=60, check=True)
    return process.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lm-jax tra", ["train"]),
        ("lm-jax train --wor", ["--workdir="]),
        # bash replaces only what follows the last = or :.
        ("lm-jax train --config=gpt:ti", ["tiny"]),
        ("lm-jax train --config=gpt:tiny --config.train.acc", ["--config.train.accumulate="]),
        ("lm-jax generate --workdir=/nowhere/", []),
    ],
)
def test_bash_completes(line, expected, shell):
    assert bash(shell, line) == expected


@pytest.mark.parametrize(("name", "check"), [("zsh", "-n"), ("fish", "--no-execute")])
def test_the_other_shells_can_read_their_scripts(name, check, tmp_path, capsys):
    if shutil.which(name) is None:
        pytest.skip(f"no {name} here")
    assert lm_jax("completion", name) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    assert subprocess.run([name, check, script], capture_output=True, text=True).stderr == ""


def test_an_answer_imports_nothing_heavy():
    code = (
        "import sys; from lm_jax.main import main;"
        "main(['lm-jax', 'completion', 'answer', 'lm-jax train --config=gpt:tiny --config.model.']);"
        "print({'jax', 'numpy', 'flax'} & set(sys.modules))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    lines = process.stdout.splitlines()
    assert "--config.model.stack." in lines and lines[-1] == "set()"


def test_keys_complete_one_level_at_a_time_and_through_single_branches():
    line = "lm-jax train --config=gpt:tiny --config."
    first = answer(line, list(VERBS))
    assert "--config.model." in first and "--config.seed=" in first
    assert not any(candidate.count(".") > 2 for candidate in first)
    assert "--config.model.embed.width=" in answer(f"{line}model.emb", list(VERBS))


def test_a_verb_is_offered_the_flags_that_it_reads():
    offered = answer("lm-jax train --", list(VERBS))
    assert "--fork=" in offered and "--prompt=" not in offered
    assert "--prompt=" in answer("lm-jax generate --pr", list(VERBS))


def test_an_unknown_shell_is_refused_in_one_line(capsys):
    assert lm_jax("completion", "tcsh") == 2
    assert "bash, zsh, fish" in capsys.readouterr().err
