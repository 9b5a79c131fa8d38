"""What a process settles before jax starts: it keeps freed memory, and keeps compiled programs for the next process."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import platform
import sys
from pathlib import Path

from lm_jax.core.config import check_local

# malloc.h of glibc.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8

# Packages that bring jax an accelerator.
ACCELERATORS = ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin")


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory instead of giving it back to the kernel.

    On a CPU every call of a compiled function allocates its temporaries anew. Given back and fetched again they cost
    page faults, which show in a small model's step (docs/claims.md). The largest need of a process stays its
    size. To be called before jax starts its threads, which keep the arenas of memory that they began with.

    Returns:
      False where jax has an accelerator or the C library is not glibc, and nothing was changed.
    """
    accelerated = any(importlib.util.find_spec(name) for name in ACCELERATORS)
    if not sys.platform.startswith("linux") or (accelerated and os.environ.get("JAX_PLATFORMS") != "cpu"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(name, value) for name, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1), (ARENA_MAX, 1)))


def cache_root() -> Path:
    """Where lm_jax keeps what can be made again: $LM_JAX_CACHE, else ~/.cache/lm_jax."""
    configured = os.environ.get("LM_JAX_CACHE")
    check_local(configured, "$LM_JAX_CACHE")
    return Path(configured or "~/.cache/lm_jax").expanduser()


def keep_compiled_programs(root: Path) -> None:
    """Has jax keep what it compiles below `root`, so that the next start reads it; what the user set stays.

    To be called before jax is imported: only then does it read these variables.
    """
    # jax's key of a program leaves out what the CPU can do, and a home directory may be seen by several machines.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(root / "compiled" / _processor()))
    # Below jax's own second: a small model's start is many short compilations.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def _processor() -> str:
    """A name that processors with the same instructions share."""
    flags = ""
    if sys.platform.startswith("linux"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:8]}"
