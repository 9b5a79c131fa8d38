"""Runs the command line in tests, in this process or in a subprocess."""

import os
import subprocess
import sys
from pathlib import Path

from lm_jax.data import phrases
from lm_jax.main import main

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"


def golden_flags(store: Path) -> list[str]:
    """Flags to train on the small golden text with its tokenizer."""
    return [
        f"--config.data.path={GOLDEN / 'text.txt'}",
        "--config.data.document=paragraph",
        f"--config.data.tokenizer.path={GOLDEN / 'tokenizer'}",
        f"--config.data.store={store}",
        "--config.data.workers=1",
    ]


def recipe_flags(recipe: str, folder: Path) -> list[str]:
    """`golden_flags` of a recipe, with the columns that it reads."""
    flags = golden_flags(folder / "store")
    if recipe == "ernie":
        assert phrases.main([str(GOLDEN / "text.txt"), str(folder / "phrases.jsonl")]) == 0
        flags[0] = f"--config.data.path={folder / 'phrases.jsonl'}"
    return flags


def lm_jax(*words: object) -> int:
    """Runs a command in this process; returns its exit code."""
    return main(["lm-jax", *map(str, words)])


def command(*words: object) -> list[str]:
    """The argument list of a command, for a subprocess."""
    return [sys.executable, "-m", "lm_jax.main", *map(str, words)]


def one_device() -> dict[str, str]:
    """An environment with one CPU device, as on most machines; it also starts fastest."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1", "PYTHONPATH": path}


def run(*words: object, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
    """Runs a command in a subprocess, with its output captured."""
    return subprocess.run(command(*words), env=one_device(), capture_output=True, text=True, timeout=timeout_s)
