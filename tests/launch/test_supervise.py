"""supervise.sh restarts what may succeed, gives up without progress, and ends its child when it is told to stop."""

import os
import signal
import subprocess
import time

import pytest

from tests.commands import ROOT
from tests.launch.stubs import Cluster

SAVE = 'mkdir -p run/checkpoints/$1; echo "{}" > run/checkpoints/$1/manifest.json'


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


def supervise(cluster, child, *options):
    """Runs a child that counts its runs in `$n`, and returns the process and the number of runs."""
    cluster.stub("child", f"save() {{ {SAVE}; }}; n=$(cat n 2>/dev/null || echo 0); n=$((n+1)); echo $n > n\n{child}")
    process = cluster.run("supervise", "--backoff_s=0", *options, "--", "child", "--workdir=run")
    return process, len(cluster.calls())


@pytest.mark.parametrize("code", [0, 2, 3])
def test_a_final_exit_code_is_not_restarted(cluster, code):
    process, runs = supervise(cluster, f"exit {code}")
    assert (process.returncode, runs) == (code, 1)


def test_failures_without_progress_end_it_with_the_code_of_the_child(cluster):
    process, runs = supervise(cluster, "save 100; exit 7")
    # The first run made progress: it counts as the first failure at step 100.
    assert (process.returncode, runs) == (7, 3)
    assert "no progress beyond step 100 in 3 runs; giving up" in process.stderr


def test_progress_resets_the_count(cluster):
    process, runs = supervise(cluster, "[ $n -lt 6 ] || exit 0; save $((n * 100)); exit 4", "--max_failures=2")
    assert (process.returncode, runs) == (0, 6)


def test_a_step_without_a_manifest_is_no_progress(cluster):
    process, runs = supervise(cluster, "mkdir -p run/checkpoints/$n; exit 1", "--max_failures=2")
    assert (process.returncode, runs) == (1, 2)


def test_a_preempted_run_is_restarted_at_once_and_is_no_failure(cluster):
    process, runs = supervise(cluster, "[ $n -lt 4 ] && exit 75; exit 0", "--max_failures=1", "--backoff_s=600")
    assert (process.returncode, runs) == (0, 4)


def test_the_pause_doubles(cluster):
    cluster.stub("sleep")
    process, _ = supervise(cluster, "exit 1", "--max_failures=5", "--backoff_s=40")
    pauses = [line.split()[-2] for line in process.stdout.splitlines() if "starting again" in line]
    assert pauses == ["40", "80", "160", "320"]
    assert [call[1] for call in cluster.calls() if call[0] == "sleep"] == pauses


def test_the_dry_run_prints_the_command(cluster):
    assert cluster.planned("supervise", "--", "child", "--workdir", "a b") == [["child", "--workdir", "a b"]]


def start(cluster, child, *options):
    cluster.stub("child", f"{child}")
    command = [ROOT / "launch" / "supervise.sh", *options, "--", "child", "--workdir=run"]
    process = subprocess.Popen(
        command,
        cwd=cluster.folder,
        env=cluster.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(cluster.folder / "ready")
    return process


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


@pytest.mark.parametrize("send", [os.kill, os.killpg])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_child_once_as_sigterm_and_its_code_is_returned(cluster, number, send):
    # A second SIGTERM, or a SIGINT, during the save would end the child with another code.
    child = "trap 'trap - TERM; sleep 0.1; exit 75' TERM; touch ready; while :; do sleep 0.05; done"
    process = start(cluster, child)
    send(process.pid, number)
    # Not restarted, although 75 would be without the signal.
    assert process.wait(timeout=60) == 75
    assert cluster.calls() == [["child", "--workdir=run"]]


def test_a_child_that_ignores_sigterm_is_killed(cluster):
    child = "trap '' TERM; echo $$ > pid; touch ready; while :; do sleep 0.05; done"
    process = start(cluster, child, "--grace_s=1")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGKILL
    assert time.monotonic() - began > 0.9


def test_a_signal_during_the_pause_ends_it(cluster):
    process = start(cluster, "touch ready; exit 9", "--backoff_s=600")
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 9
