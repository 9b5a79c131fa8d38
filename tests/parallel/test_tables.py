"""Rows of divided tables are those of whole ones, and so are their gradients; no device handles the ids of others."""

import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
from jax.sharding import NamedSharding

from lm_jax.parallel import mesh, tables
from lm_jax.parallel.layout import Layout, constrain
from lm_jax.parallel.mesh import MeshConfig
from lm_jax.parallel.rules import Rules

AXES, FLOAT = ("vocab", "embed"), jnp.dtype("float32")
TABLE = jax.random.normal(jax.random.key(0), (16, 32))
IDS = jax.random.randint(jax.random.key(1), (8, 6), 0, 16)


def loss(table, ids, weights, dtype=FLOAT):
    rows = tables.look_up(table, ids, AXES, dtype, "stream")
    return jnp.sum(jnp.square(constrain(rows, "batch", "stream", None).astype(jnp.float32)) * weights[..., None])


def compiled(layout, dtype=FLOAT):
    """The gradient of the loss for the table, as a program, and its arguments."""
    batch = layout.sharding(("batch",))
    arguments = (
        jax.device_put(TABLE, layout.sharding(AXES)),
        jax.device_put(IDS, batch),
        jax.device_put(jnp.arange(48.0).reshape(8, 6), batch),
    )
    gradient = layout.jit(jax.grad(functools.partial(loss, dtype=dtype)), out_shardings=layout.sharding(AXES))
    with laws.nothing_rematerialised():
        return gradient.lower(*arguments).compile(), arguments


@pytest.mark.parametrize(
    ("axes", "rules"),
    [
        ((2, 2, 2), Rules()),
        ((2, 2, 2), Rules(stream=("tensor",))),
        ((2, 2, 2), Rules(stream=("tensor",), vocab=())),
        ((1, 8, 1), Rules()),
        ((2, 4, 1), Rules(embed=("data", "fsdp"))),
        ((1, 2, 4), Rules(vocab=(), embed=("fsdp", "tensor"))),
    ],
)
def test_rows_and_gradients_are_those_of_one_device(axes, rules):
    layout = Layout(mesh.make(MeshConfig(**dict(zip(("data", "fsdp", "tensor"), axes, strict=True)))), rules)
    program, arguments = compiled(layout)
    expected = jax.grad(loss)(TABLE, *map(jnp.asarray, jax.device_get(arguments[1:])))
    np.testing.assert_allclose(np.asarray(program(*arguments)), np.asarray(expected), rtol=2e-6, atol=1e-6)
    rows = layout.jit(lambda table, ids: tables.look_up(table, ids, AXES, FLOAT))(*arguments[:2])
    np.testing.assert_array_equal(np.asarray(rows), np.asarray(TABLE[IDS]))


def test_a_frequent_id_is_summed_in_float32():
    ids, rows = jnp.zeros((8, 512), jnp.int32), (8, 512)
    layout = Layout(mesh.make(MeshConfig(data=1, fsdp=8)))
    total = lambda table: tables.look_up(table, ids, AXES, jnp.dtype("bfloat16")).astype(jnp.float32).sum()
    gradient = layout.jit(jax.grad(total), out_shardings=layout.sharding(AXES))(TABLE)
    # In bfloat16, adding ones stops at 256.
    assert float(gradient[0, 0]) == np.prod(rows)


def test_a_batch_that_cannot_be_divided_is_looked_up_whole():
    layout = Layout(mesh.make(MeshConfig(data=1, fsdp=8)))
    table = jax.device_put(TABLE, NamedSharding(layout.mesh, layout.spec(AXES)))
    rows = layout.jit(lambda table: tables.look_up(table, IDS[:1], AXES, FLOAT))(table)
    np.testing.assert_array_equal(np.asarray(rows), np.asarray(TABLE[IDS[:1]]))
