"""Compiles a step for devices that are not there; running out of their memory is a result."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from lm_jax.core.config import InputError
from lm_jax.plan.topology import quiet

# The compiler's messages: of libtpu 0.0.5x, and of earlier ones.
TOO_LARGE = (
    re.compile(r"total memory required[^(]*\(([\d.]+)([KMGT]?)\) exceeds available \w+ \(([\d.]+)([KMGT]?)\)"),
    re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm"),
)
# For GPUs: kernels are chosen without timing them.
UNTIMED = {"xla_gpu_autotune_level": 0}
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """The result of a compilation.

    Attributes:
      text: the compiled program; empty if it does not fit.
      memory: the compiler's `CompiledMemoryStats`; None if it does not fit.
      needed_bytes: memory of a device that the program needs.
      limit_bytes: memory of a device that a program can use; None if it fits, because the compiler then names none.
      tracing_s, compiling_s: seconds to trace and lower, and to compile.
    """

    text: str
    memory: Any
    needed_bytes: int
    limit_bytes: int | None
    tracing_s: float
    compiling_s: float


def compile_step(step: Callable[..., Any], *arguments: Any, options: Mapping[str, Any] | None = None) -> Compiled:
    """Traces a jitted function for trees of `jax.ShapeDtypeStruct` on the devices of a topology, and compiles it.

    `options` are the compiler's.

    Raises:
      InputError: the compiler fails for another reason than memory.
    """
    start = time.perf_counter()
    lowered = step.lower(*arguments)  # type: ignore[attr-defined]
    traced = time.perf_counter()
    tracing_s = traced - start
    try:
        # A program that comes from jax's cache is loaded, which needs a TPU.
        with quiet(), _uncached():
            compiled = lowered.compile(options)
    except jax.errors.JaxRuntimeError as error:
        if (sizes := too_large(str(error))) is None:
            message = " ".join(str(error).split())[:300]
            raise InputError(f"the compiler refused this step: {message}") from error
        needed, limit = sizes
        seconds = time.perf_counter() - traced
        return Compiled(
            text="", memory=None, needed_bytes=needed, limit_bytes=limit, tracing_s=tracing_s, compiling_s=seconds
        )
    memory = compiled.memory_analysis()
    return Compiled(
        text=compiled.as_text(),
        memory=memory,
        needed_bytes=_needed(memory),
        limit_bytes=None,
        tracing_s=tracing_s,
        compiling_s=time.perf_counter() - traced,
    )


def too_large(message: str) -> tuple[int, int] | None:
    """Returns the needed and the usable bytes from the compiler's message; None if it is about something else.

    Example:
      >>> too_large("Ran out of memory in memory space hbm. Used 24.00G of 16.00G hbm.")
      (25769803776, 17179869184)
    """
    for pattern in TOO_LARGE:
        if match := pattern.search(message):
            needed, unit, limit, limit_unit = match.groups()
            return round(float(needed) * UNITS[unit]), round(float(limit) * UNITS[limit_unit])
    return None


def _needed(memory: Any) -> int:
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + outputs + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes


@contextlib.contextmanager
def _uncached() -> Iterator[None]:
    before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
