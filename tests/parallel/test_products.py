"""Explicit products and their gradients, reduced in rings, are those of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.parallel import mesh, products, rings
from lm_jax.parallel.layout import Layout
from lm_jax.parallel.mesh import MeshConfig
from lm_jax.parallel.rules import Rules

X = jax.random.normal(jax.random.key(0), (8, 3, 16))
# Places of a mesh axis in a torus, by its size.
PLACES = {8: np.array([[0, 3, 4, 7], [1, 2, 5, 6]]), 4: np.array([[0, 1], [3, 2]]), 2: np.arange(2)}


@pytest.fixture
def explicit(monkeypatch):
    monkeypatch.setattr(products, "PLATFORMS", ("cpu",))
    monkeypatch.setattr(products, "LEAST_DEVICES", 2)


def layout(rules=None, **axes):
    return Layout(mesh.make(MeshConfig(**axes)), rules or Rules())


@pytest.mark.parametrize("torus", [False, True])
@pytest.mark.parametrize(
    ("axes", "rules"),
    [
        ({"data": 1, "fsdp": 8}, Rules()),
        ({"data": 2, "fsdp": 2, "tensor": 2}, Rules()),
        ({"data": 2, "fsdp": 4}, Rules(embed=("data", "fsdp"))),
    ],
)
def test_products_and_gradients_are_those_of_one_device(axes, rules, torus, explicit, monkeypatch):
    if torus:
        monkeypatch.setattr(rings, "grid", lambda lines: PLACES[lines.shape[1]])
    else:
        monkeypatch.setattr(products, "STAGED", 0)
    spread = layout(rules, **axes)
    kernels = {
        "in": (jax.random.normal(jax.random.key(1), (16, 4, 6)), ("embed", "heads", "kv"), 1),
        "out": (jax.random.normal(jax.random.key(2), (4, 6, 16)), ("heads", "kv", "embed"), 2),
    }

    def loss(kernels_in, kernel_out, x):
        for kernel, (_, names, inputs) in zip((kernels_in, kernel_out), kernels.values(), strict=True):
            if layout := products.explicit(len(x), names):
                x = products.product(layout, x, kernel, names, inputs)
            else:
                x = jnp.tensordot(x, kernel, inputs)
        return (jnp.sin(x) * jnp.arange(16.0)[None, None]).sum()

    arguments = [kernels["in"][0], kernels["out"][0], X]
    shardings = [*(spread.sharding(names) for _, names, _ in kernels.values()), spread.sharding(("batch",))]
    gradient = spread.jit(jax.value_and_grad(loss, (0, 1, 2)), out_shardings=(None, tuple(shardings)))
    program = gradient.lower(*map(jax.device_put, arguments, shardings)).compile()
    assert "collective-permute" in program.as_text()
    actual = program(*map(jax.device_put, arguments, shardings))
    expected = jax.value_and_grad(loss, (0, 1, 2))(*arguments)
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


def test_the_partitioner_keeps_what_is_not_asked_for(explicit, monkeypatch):
    inside = lambda spread, *args: spread.jit(lambda: jnp.array(products.explicit(*args) is not None))().item()
    names = ("embed", "mlp")
    assert inside(layout(fsdp=8, data=1), 8, names)
    # Rows that the devices do not divide; a kernel that no axis of the batch divides; no layout; another platform.
    assert not inside(layout(fsdp=8, data=1), 9, names)
    assert not inside(layout(data=8), 8, names)
    assert not inside(layout(fsdp=8, data=1), 8, ("mlp", "kv"))
    assert not products.explicit(8, names)
    # Replicas count: their sums of gradients are sent, too.
    monkeypatch.setattr(products, "LEAST_DEVICES", 8)
    assert inside(layout(fsdp=2, data=4), 8, names) and not inside(layout(fsdp=2, tensor=4, data=1), 8, names)
    monkeypatch.setattr(products, "LEAST_DEVICES", 16)
    assert not inside(layout(fsdp=8, data=1), 8, names)
    monkeypatch.setattr(products, "LEAST_DEVICES", 2)
    monkeypatch.setattr(products, "PLATFORMS", ("tpu",))
    assert not inside(layout(fsdp=8, data=1), 8, names)


class Chip:
    """A device with coordinates, as TPUs have."""

    def __init__(self, *coords):
        self.coords = coords


def test_rings_follow_the_torus():
    chips = [[Chip(x, y, 0) for y in range(4)] for x in range(2)]
    over = lambda lines: rings.grid(np.array(lines))
    line = [chip for row in chips for chip in row]
    np.testing.assert_array_equal(over([line]), np.arange(8).reshape(2, 4))
    snake = [chips[0][0], chips[1][0], chips[1][1], chips[0][1]]
    np.testing.assert_array_equal(over([snake]), [[0, 3], [1, 2]])
    np.testing.assert_array_equal(over(chips), np.arange(4))
    # Three of four places, and two cores of a chip twice: no box. One device is a line.
    np.testing.assert_array_equal(over([snake[:3]]), np.arange(3))
    np.testing.assert_array_equal(over([[snake[0], snake[2]] * 2]), np.arange(4))
    np.testing.assert_array_equal(over([snake[:1]]), [0])
