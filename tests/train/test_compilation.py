"""A step is compiled once, before its first batch; later processes read the program from the cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lm_jax.parallel import mesh
from lm_jax.parallel.layout import Layout
from lm_jax.train import compilation

COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compiled(monkeypatch):
    """A function that returns the number of compilations so far."""
    names = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: names.append(event))
    yield lambda: names.count(COMPILED)


def step_and_arguments(seed):
    layout = Layout(mesh.make(mesh.MeshConfig()))
    state = jax.device_put({"w": jnp.ones((8, 4))}, layout.replicated)
    batch = tiny.put(layout, {"x": np.ones((8, 8), np.float32)})
    like = [
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
        for tree in (state, batch)
    ]

    def step(state, batch):
        slope = jax.grad(lambda w: jnp.tanh(batch["x"] @ w + seed).sum())(state["w"])
        return {"w": state["w"] - slope}, {"norm": jnp.sum(slope)}

    return layout.jit(step, donate_argnums=0), like, (state, batch)


def test_the_first_call_uses_the_program_compiled_ahead(compiled):
    step, like, (state, batch) = step_and_arguments(seed=0.125)
    compilation.compile_ahead(step, *like).result()
    before = compiled()
    state, _ = step(state, batch)
    step(state, batch)
    assert compiled() == before


def test_a_second_compilation_is_a_cache_hit(tmp_path, monkeypatch):
    from jax.experimental.compilation_cache import compilation_cache

    settings = {"jax_compilation_cache_dir": str(tmp_path), "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        first, second = (compilation.compile_ahead(*_shapes()).result() for _ in range(2))
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    assert first.cached is False and second.cached is True
    assert "cache hit" in str(second) and "cache miss" in str(first)


def _shapes():
    step, like, _ = step_and_arguments(seed=0.25)
    return step, *like
