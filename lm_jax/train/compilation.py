"""Compiling a step before its first batch, beside whatever else a start does; compiled programs outlive the process."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import jax

HIT, MISS = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compilation:
    """What compiling took.

    Attributes:
      tracing_s: from Python to the compiler's input.
      compiling_s: the compiler, or reading what it made in an earlier process.
      cached: whether an earlier process had compiled it; None where nothing is kept.
    """

    tracing_s: float
    compiling_s: float
    cached: bool | None

    def __str__(self) -> str:
        told = {True: "cache hit", False: "cache miss, kept for the next start", None: "no cache"}[self.cached]
        return f"traced in {self.tracing_s:.1f} s, compiled in {self.compiling_s:.1f} s ({told})"


def ahead(step: Callable[..., Any], *arguments: Any) -> concurrent.futures.Future[Compilation]:
    """Compiles a jitted function for arguments of these shapes on a thread of its own.

    The function itself, called with such arguments later, finds the program and does not compile again. The compiler
    leaves Python to the other threads.

    Args:
      step: made by `Layout.jit`.
      arguments: trees of `jax.ShapeDtypeStruct` with shardings.
    """
    executor = concurrent.futures.ThreadPoolExecutor(1, "compilation")
    future = executor.submit(_compile, step, arguments)
    executor.shutdown(wait=False)
    return future


def _compile(step: Any, arguments: tuple[Any, ...]) -> Compilation:
    events, thread = _events(), threading.get_ident()
    before = {event: events[thread, event] for event in (HIT, MISS)}
    begin = time.perf_counter()
    lowered = step.lower(*arguments)
    traced = time.perf_counter()
    lowered.compile()
    end = time.perf_counter()
    hit, missed = (events[thread, event] > before[event] for event in (HIT, MISS))
    return Compilation(
        tracing_s=traced - begin, compiling_s=end - traced, cached=True if hit else False if missed else None
    )


@functools.cache
def _events() -> collections.Counter[tuple[int, str]]:
    """Counts what jax reports of its cache, by thread: other programs may be compiled meanwhile."""
    seen: collections.Counter[tuple[int, str]] = collections.Counter()

    def count(event: str, **_: Any) -> None:
        if event in (HIT, MISS):
            seen[threading.get_ident(), event] += 1

    jax.monitoring.register_event_listener(count)
    return seen
