import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lm_jax.core.config import InputError
from lm_jax.data import workers


def speak(words, job):
    for word in words:
        print(word, file=sys.stderr, flush=True)
    if job == "fail":
        raise InputError("the job failed")
    if job == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return job, os.getpid()


def test_an_isolated_job_runs_in_another_process_and_passes_on_its_standard_error(capfd):
    lines = []

    answer, process = workers.run_isolated(speak, (["one", "two"],), "answer", lines.append)

    assert answer == "answer" and process != os.getpid()
    assert [line for line in lines if line] == [b"one\n", b"two\n"]
    assert capfd.readouterr().err == ""


def test_errors_of_the_other_process_are_raised_here():
    errors = {"fail": (InputError, "the job failed"), "die": (RuntimeError, "died")}
    with ThreadPoolExecutor() as pool:
        calls = {job: pool.submit(workers.run_isolated, speak, ([],), job, lambda line: None) for job in errors}

    for job, (kind, message) in errors.items():
        with pytest.raises(kind, match=message):
            calls[job].result()


BUSY = """
    import signal
    import sys
    from lm_jax.data import workers
    # A process started in the background by a shell ignores Ctrl-C; restore the default.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    def main():
        # A regular expression that backtracks for years blocks the interpreter, as the training of a tokenizer does.
        workers.run_isolated({function}, ({arguments}), {job!r}, lambda line: print("waiting", flush=True))
    main()
"""


def test_the_other_process_ends_with_this_one(repository):
    script = textwrap.dedent(BUSY).format(function="__import__('re').match", arguments="'(a*)*b',", job="a" * 64)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", script]
    processes = {
        end: subprocess.Popen(command, cwd=repository, start_new_session=True, **pipes)
        for end in (signal.SIGINT, signal.SIGKILL)
    }
    # The worker runs when the first second of silence is reported.
    assert all(process.stdout.readline() == b"waiting\n" for process in processes.values())

    started = time.monotonic()
    os.killpg(processes[signal.SIGINT].pid, signal.SIGINT)
    processes[signal.SIGKILL].kill()
    errors = {end: process.communicate(timeout=20)[1] for end, process in processes.items()}

    # The pipes close when the last process that holds them has ended. 5 s, because the machine may be busy.
    assert time.monotonic() - started < 5
    assert all(process.returncode == -end for end, process in processes.items())
    assert errors[signal.SIGINT].count(b"Traceback") == 1 and not errors[signal.SIGKILL]
