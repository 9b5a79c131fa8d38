"""A trace covers the requested steps; a file requests one during a run."""

import gzip
import json
import re

import jax
import jax.numpy as jnp

from lm_jax.train.profile import REQUEST, Profiler


def train(profiler, first, last):
    step = profiler.wrap(jax.jit(lambda state, batch: state + batch))
    state = jnp.zeros(())
    for _ in range(first, last + 1):
        state = step(state, 1.0)
    profiler.close()
    return float(state)


def traced_steps(workdir):
    """The step numbers in the traces, read as a trace viewer would read them."""
    steps = set()
    for path in workdir.glob("profile/plugins/profile/*/*.trace.json.gz"):
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        steps |= {int(event["args"]["step_num"]) for event in events if "step_num" in event.get("args", {})}
    return steps


def test_the_requested_steps_are_traced(tmp_path):
    messages = []
    assert train(Profiler(tmp_path, steps=(3, 4), say=messages.append), 1, 6) == 6
    assert traced_steps(tmp_path) == {3, 4}
    assert len(messages) == 1 and re.search("steps 3 to 4 .*ui.perfetto.dev", messages[0])


def test_a_file_requests_a_trace_during_a_run(tmp_path):
    profiler = Profiler(tmp_path, start=10, say=lambda text: None)
    (tmp_path / REQUEST).write_text("2\n")
    profiler.poll()
    assert not (tmp_path / REQUEST).exists()
    train(profiler, 11, 14)
    assert traced_steps(tmp_path) == {11, 12}


def test_the_trace_is_written_if_the_run_ends_during_it(tmp_path):
    train(Profiler(tmp_path, start=3, steps=(2, 90), say=lambda text: None), 4, 5)
    assert traced_steps(tmp_path) == {4, 5}


def test_other_processes_trace_nothing(tmp_path):
    (tmp_path / REQUEST).touch()
    profiler = Profiler(tmp_path, steps=(1, 2), active=False)
    profiler.poll()
    train(profiler, 1, 3)
    assert [path.name for path in tmp_path.iterdir()] == [REQUEST]
