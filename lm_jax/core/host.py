"""The host's memory: what a CPU's train step frees is wanted again a moment later."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys

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
