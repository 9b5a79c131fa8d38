"""A run that hangs is ended; a run that makes progress is not."""

import subprocess
import sys
import time

from lm_jax.train.watchdog import HUNG, Watchdog

HANGS = """
import time
from lm_jax.train.watchdog import Watchdog

def waits_for_a_lost_host():
    time.sleep(60)

with Watchdog(0.5) as watchdog:
    watchdog.beat(7)
    waits_for_a_lost_host()
"""


def test_a_run_that_hangs_exits_with_code_4_and_prints_its_stacks():
    result = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=30)
    assert result.returncode == HUNG == 4
    assert "waits_for_a_lost_host" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("lm-jax train: no step for 0.5 s after step 7")


def test_a_run_that_makes_steps_continues():
    ended = []
    with Watchdog(0.4, ended.append) as watchdog:
        for step in range(8):
            time.sleep(0.1)
            watchdog.beat(step)
    assert not ended


def test_a_paused_watchdog_does_not_end_the_run():
    ended = []
    with Watchdog(0.2, ended.append) as watchdog, watchdog.paused():
        time.sleep(0.6)
    assert not ended


def test_without_a_limit_the_run_continues():
    ended = []
    with Watchdog(0.0, ended.append):
        time.sleep(0.05)
    assert not ended
