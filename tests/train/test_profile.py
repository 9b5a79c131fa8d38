"""A trace covers the steps that were asked for, and asking is possible while a run runs."""

import gzip
import json
import re

import jax
import jax.numpy as jnp

from lm_jax.train.profile import REQUEST, Profiler


def go(profiler, first, last):
    step = profiler.wrap(jax.jit(lambda state, batch: state + batch))
    state = jnp.zeros(())
    for _ in range(first, last + 1):
        state = step(state, 1.0)
    profiler.close()
    return float(state)


def traced_steps(workdir):
    """The numbers of the steps in the traces, read as a trace viewer would."""
    found = set()
    for path in workdir.glob("profile/plugins/profile/*/*.trace.json.gz"):
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        found |= {int(event["args"]["step_num"]) for event in events if "step_num" in event.get("args", {})}
    return found


def test_the_steps_that_were_asked_for_are_traced(tmp_path):
    said = []
    assert go(Profiler(tmp_path, steps=(3, 4), say=said.append), 1, 6) == 6
    assert traced_steps(tmp_path) == {3, 4}
    assert len(said) == 1 and re.search("steps 3 to 4 .*ui.perfetto.dev", said[0])


def test_a_file_asks_a_running_run_for_a_trace(tmp_path):
    profiler = Profiler(tmp_path, start=10, say=lambda text: None)
    (tmp_path / REQUEST).write_text("2\n")
    profiler.poll()
    assert not (tmp_path / REQUEST).exists()
    go(profiler, 11, 14)
    assert traced_steps(tmp_path) == {11, 12}


def test_a_run_that_ends_within_its_trace_keeps_it(tmp_path):
    go(Profiler(tmp_path, start=3, steps=(2, 90), say=lambda text: None), 4, 5)
    assert traced_steps(tmp_path) == {4, 5}


def test_other_processes_trace_nothing(tmp_path):
    (tmp_path / REQUEST).touch()
    profiler = Profiler(tmp_path, steps=(1, 2), active=False)
    profiler.poll()
    go(profiler, 1, 3)
    assert [path.name for path in tmp_path.iterdir()] == [REQUEST]
