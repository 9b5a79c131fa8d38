"""Running the command line in tests: in this process, or as a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from lm_jax.main import main

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"


def golden_flags(store: Path) -> list[str]:
    """Flags that train on the small fixed text with its tokenizer."""
    return [
        f"--config.data.path={GOLDEN / 'text.txt'}",
        "--config.data.document=paragraph",
        f"--config.data.tokenizer.path={GOLDEN / 'tokenizer'}",
        f"--config.data.store={store}",
        "--config.data.workers=1",
    ]


def lm_jax(*words: object) -> int:
    """The exit code of a command that runs in this process."""
    return main(["lm-jax", *map(str, words)])


def command(*words: object) -> list[str]:
    """The same command as an argument list for a process of its own."""
    return [sys.executable, "-m", "lm_jax.main", *map(str, words)]


def one_device() -> dict[str, str]:
    """An environment with one CPU device: what most machines have, and the fastest to start."""
    return {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1", "PYTHONPATH": str(ROOT)}


def run(*words: object, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, with what it printed."""
    return subprocess.run(command(*words), env=one_device(), capture_output=True, text=True, timeout=timeout_s)
