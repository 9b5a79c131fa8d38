"""Settings to make before jax starts: keep freed memory, and cache compiled programs for the next process."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import platform
import sys
from pathlib import Path

from lm_jax.core.config import check_local

# Options of mallopt, from glibc's malloc.h.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
# Packages that add an accelerator to jax.
ACCELERATORS = ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin")


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory instead of returning it to the kernel.

    On a CPU every call of a compiled function allocates its temporaries again. Memory that was returned to the kernel
    costs page faults, which slow a small model's step measurably (docs/claims.md). In exchange the process keeps its
    peak size. Call this before jax starts its threads: a thread keeps the malloc arena that it starts with. Returns
    False if nothing was changed, because jax has an accelerator or the C library is not glibc.
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
    """Returns the directory of everything that can be recomputed: $LM_JAX_CACHE, else ~/.cache/lm_jax."""
    configured = os.environ.get("LM_JAX_CACHE")
    check_local(configured, "$LM_JAX_CACHE")
    return Path(configured or "~/.cache/lm_jax").expanduser()


def cache_compiled_programs(root: Path) -> None:
    """Sets jax's persistent compilation cache to a directory below `root`, unless the user has set one.

    Call this before jax is imported, which is when it reads these variables.
    """
    # jax's cache key ignores the CPU's instruction set, and machines of several kinds may share a home directory.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(root / "compiled" / _processor()))
    # jax's default of 1 s is too high: a small model starts with many short compilations.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def _processor() -> str:
    """Returns a name shared by processors with the same instruction set."""
    flags = ""
    if sys.platform.startswith("linux"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:8]}"
