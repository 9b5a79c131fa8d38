"""Jobs in parallel worker processes that do not import the caller's main module.

`multiprocessing` would import it again in every worker, which fails in a notebook, a heredoc or a script without a
guard. A worker here is a fresh interpreter that reads jobs from its standard input. It ends when that closes and, on
Linux, when its parent ends.
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
      function: a function of a module (workers import it by name) whose effect does not depend on the worker.
      setup: arguments that all jobs share.
      jobs: taken one at a time, when a worker is free.
      workers: processes; 0: one a core; 1: this process.
    """
    workers = workers or len(os.sched_getaffinity(0))
    if workers == 1:
        for job in jobs:
            yield function(*setup, job)
        return
    yield from _run_processes(pickle.dumps((function, setup)), jobs, workers)


def run_isolated(function: Callable[..., Any], setup: tuple[Any, ...], job: Any, hear: Callable[[bytes], None]) -> Any:
    """Return `function(*setup, job)`, computed in a separate process that is killed if this one is interrupted.

    A library that computes for minutes in one call would block the main thread and so Ctrl-C. `hear` is called with
    each line that the process writes to its standard error, and with b"" after a second of silence.
    """
    (result,) = _run_processes(pickle.dumps((function, setup)), [job], 1, hear)
    return result


def _run_processes(
    task: bytes, jobs: Iterable[Any], workers: int, hear: Callable[[bytes], None] | None = None
) -> Iterator[Any]:
    source, lock = iter(jobs), threading.Lock()
    results: queue.Queue[tuple[str, Any]] = queue.Queue()
    processes: list[subprocess.Popen[bytes]] = []
    stopping = threading.Event()

    def listen(lines: BinaryIO) -> None:
        for line in lines:
            results.put(("said", line))

    def work() -> None:
        process = stdin = stdout = listener = None
        # Workers inherit the mask, so that Ctrl-C, which the terminal sends to every process, does not end them early.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            while not stopping.is_set():
                with lock:
                    job = next(source, stopping)
                if job is stopping:
                    break
                if process is None or stdin is None or stdout is None:
                    # Started with its first job, so that a small corpus does not start a worker for every core.
                    process = _start(None if hear is None else subprocess.PIPE)
                    processes.append(process)
                    stdin, stdout = cast(BinaryIO, process.stdin), cast(BinaryIO, process.stdout)
                    if hear is not None:
                        listener = threading.Thread(target=listen, args=(process.stderr,), daemon=True)
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
                # The worker ends because its standard input is closed, and then its standard error closes.
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
                message = results.get(timeout=None if hear is None else 1)
            kind, value = message
            if kind == "done":
                yield value
            elif kind == "said":
                cast(Callable[[bytes], None], hear)(value)
            elif kind == "ended":
                running -= 1
            else:
                raise cast(BaseException, value)
    finally:
        stopping.set()
        for process in processes:
            # After the last result a worker is idle; after a failure its result is not needed.
            process.kill()
            process.wait()
        for thread in threads:
            thread.join(timeout=5)
        for process in processes:
            for pipe in filter(None, (process.stdout, process.stderr)):
                pipe.close()


def _start(stderr: int | None) -> subprocess.Popen[bytes]:
    # The caller may have imported the package from a path that is not in the environment.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return subprocess.Popen(
        [sys.executable, "-c", f"from lm_jax.data.workers import serve; serve({os.getpid()})"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, "PYTHONPATH": path},
    )


def serve(parent: int) -> None:
    """Run a worker: read jobs of process `parent` from standard input, write results to standard output."""
    # The terminal sends Ctrl-C to every process; the parent decides when its workers end.
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
        except BrokenPipeError:
            # The parent has ended.
            return


def _die_with_parent(parent: int) -> None:
    """Let Linux kill this process when the thread that started it ends; that thread waits for each result."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        # The parent ended before the call above took effect.
        sys.exit()
