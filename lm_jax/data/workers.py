"""Jobs in parallel worker processes that do not import the caller's main module.

`multiprocessing` would import it again in every worker, which fails in a notebook, a heredoc or a script without a
guard. A worker here is a fresh interpreter that reads jobs from its standard input, and ends when its input closes or,
on Linux, when its parent ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, cast

from lm_jax.core.config import InputError

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>.


def run(function: Callable[..., Any], setup: tuple[Any, ...], jobs: Iterable[Any], workers: int) -> Iterator[Any]:
    """Yield `function(*setup, job)` for every job, in the order of completion.

    Args:
      function: a module-level function (workers import it by name) whose effect does not depend on the worker.
      setup: arguments that all jobs share.
      jobs: taken one at a time, when a worker is free.
      workers: number of processes; 0: one per core; 1: only this process.
    """
    workers = workers or len(os.sched_getaffinity(0))
    if workers == 1:
        for job in jobs:
            yield function(*setup, job)
        return
    yield from _run_processes(pickle.dumps((function, setup)), jobs, workers)


def run_isolated(function: Callable[..., Any], setup: tuple[Any, ...], job: Any, emit: Callable[[bytes], None]) -> Any:
    """Return `function(*setup, job)`, computed in a separate process that is killed if this one is interrupted.

    A library that computes for minutes in one call would block the main thread and with it Ctrl-C. `emit` is called
    with each line that the process writes to its standard error, and with b"" after a second without one.
    """
    (result,) = _run_processes(pickle.dumps((function, setup)), [job], 1, emit)
    return result


def _run_processes(
    task: bytes, jobs: Iterable[Any], workers: int, emit: Callable[[bytes], None] | None = None
) -> Iterator[Any]:
    source, lock = iter(jobs), threading.Lock()
    results: queue.Queue[tuple[str, Any]] = queue.Queue()
    processes: list[subprocess.Popen[bytes]] = []
    stopping = threading.Event()

    def forward_lines(lines: BinaryIO) -> None:
        for line in lines:
            results.put(("said", line))

    def work() -> None:
        process = stdin = stdout = listener = None
        # The worker inherits this mask, so that Ctrl-C, which the terminal sends to every process, does not end it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            while not stopping.is_set():
                with lock:
                    job = next(source, stopping)
                if job is stopping:
                    break
                if process is None or stdin is None or stdout is None:
                    # Started with the first job, so that a small corpus does not start a worker on every core.
                    process = _start(None if emit is None else subprocess.PIPE)
                    processes.append(process)
                    stdin, stdout = cast(BinaryIO, process.stdin), cast(BinaryIO, process.stdout)
                    if emit is not None:
                        listener = threading.Thread(target=forward_lines, args=(process.stderr,), daemon=True)
                        listener.start()
                    stdin.write(task)
                pickle.dump(job, stdin)
                stdin.flush()
                results.put(pickle.load(stdout))
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            code = process.wait() if process else None
            results.put(("died", RuntimeError(f"a data worker died (exit code {code}): {type(error).__name__}")))
        except BaseException as error:
            results.put(("failed", error))
        finally:
            if stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    stdin.close()
            if listener is not None:
                # The worker ends when its standard input closes, and that closes its standard error.
                listener.join(timeout=5)
            results.put(("ended", None))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        running = workers
        while running:
            message: tuple[str, Any] = ("said", b"")
            with contextlib.suppress(queue.Empty):
                message = results.get(timeout=None if emit is None else 1)
            kind, value = message
            if kind == "done":
                yield value
            elif kind == "said":
                cast(Callable[[bytes], None], emit)(value)
            elif kind == "ended":
                running -= 1
            else:
                raise cast(BaseException, value)
    finally:
        stopping.set()
        for process in processes:
            # The worker is idle after the last result, and its result is not needed after a failure.
            process.kill()
            process.wait()
        for thread in threads:
            thread.join(timeout=5)
        for process in processes:
            for pipe in filter(None, (process.stdout, process.stderr)):
                pipe.close()


def _start(stderr: int | None) -> subprocess.Popen[bytes]:
    # The caller may have imported lm_jax from a path that is not in PYTHONPATH.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return subprocess.Popen(
        [sys.executable, "-c", f"from lm_jax.data.workers import serve; serve({os.getpid()})"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, "PYTHONPATH": path},
    )


def serve(parent: int) -> None:
    """Run a worker: read the jobs of process `parent` from standard input, write results to standard output."""
    # The parent decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent(parent)
    jobs, results = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # Output that a library prints must not mix with the results.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    function, setup = pickle.load(jobs)
    while True:
        try:
            job = pickle.load(jobs)
        except EOFError:
            return
        try:
            answer = ("done", function(*setup, job))
        except (InputError, OSError) as error:
            answer = ("failed", error)
        except Exception as error:
            answer = ("failed", RuntimeError(f"{error!r} in a data worker:\n{traceback.format_exc()}"))
        try:
            pickle.dump(answer, results)
            results.flush()
        except BrokenPipeError:  # The parent has ended.
            return


def _die_with_parent(parent: int) -> None:
    """Let Linux kill this process when the thread that started it ends; that thread waits for each result."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # It ended before the call above took effect.
        sys.exit()
