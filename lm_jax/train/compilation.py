"""Compilation of a step in the background while a run starts; jax's cache keeps the program for later processes."""

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
    """Times of one compilation.

    Attributes:
      tracing_s: seconds to trace and lower the function.
      compiling_s: seconds to compile it, or to read the program from the cache.
      cached: whether the program was in the cache; None: there is no cache.
    """

    tracing_s: float
    compiling_s: float
    cached: bool | None

    def __str__(self) -> str:
        cache = {True: "cache hit", False: "cache miss, saved for the next start", None: "no cache"}[self.cached]
        return f"traced in {self.tracing_s:.1f} s, compiled in {self.compiling_s:.1f} s ({cache})"


def compile_ahead(step: Callable[..., Any], *arguments: Any) -> concurrent.futures.Future[Compilation]:
    """Traces a function from `Layout.jit` for trees of `jax.ShapeDtypeStruct`, and compiles it in a new thread.

    Later calls of the function with such arguments reuse the program. The compiler releases the interpreter lock.
    """
    # Traced in this thread: grain and Orbax are imported later, and while they are, etils replaces `__import__` in all
    # threads, so that an import made by tracing would return a placeholder.
    begin = time.perf_counter()
    lowered = step.lower(*arguments)  # type: ignore[attr-defined]
    tracing_s = time.perf_counter() - begin
    executor = concurrent.futures.ThreadPoolExecutor(1, "compilation")
    future = executor.submit(_compile, lowered, tracing_s)
    executor.shutdown(wait=False)
    return future


def _compile(lowered: Any, tracing_s: float) -> Compilation:
    events, thread = _events(), threading.get_ident()
    before = {event: events[thread, event] for event in (HIT, MISS)}
    begin = time.perf_counter()
    lowered.compile()
    compiling_s = time.perf_counter() - begin
    hit, miss = (events[thread, event] > before[event] for event in (HIT, MISS))
    return Compilation(tracing_s=tracing_s, compiling_s=compiling_s, cached=hit if hit or miss else None)


@functools.cache
def _events() -> collections.Counter[tuple[int, str]]:
    """Counts jax's cache events by thread, because other threads may compile programs at the same time."""
    counts: collections.Counter[tuple[int, str]] = collections.Counter()

    def count(event: str, **_: Any) -> None:
        if event in (HIT, MISS):
            counts[threading.get_ident(), event] += 1

    jax.monitoring.register_event_listener(count)
    return counts
