"""Every leaf of a train state lives with its parameter, or belongs to none."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from lm_jax.core.trees import named_leaves
from lm_jax.parallel import mesh
from lm_jax.parallel.layout import Layout
from lm_jax.parallel.mesh import MeshConfig
from lm_jax.train import optimizers, placing, state
from lm_jax.train.optimizers import OPTIMIZERS, OptimizerConfig, ScheduleConfig

AXES = {
    "token": {"embedding": ("vocab", "embed")},
    "stack": {
        "layers": {
            "query": {"kernel": ("layers", "embed", "heads", "kv"), "bias": ("layers", "heads", "kv")},
            "out": {"kernel": ("layers", "heads", "kv", "embed")},
            "square": {"kernel": ("layers", "embed", "mlp")},
            "experts": {"kernel": ("layers", "experts", "embed", "mlp")},
            "norm": {"scale": ("layers", "norm")},
        },
        "other": {"layers": {"query": {"kernel": ("layers", "embed", "heads", "kv")}}},
    },
}
SIZES = {"vocab": 512, "embed": 256, "heads": 4, "kv": 64, "mlp": 256, "layers": 3, "experts": 2, "norm": 256}
PARAMS = {
    "model": jax.tree.map(
        lambda names: jax.ShapeDtypeStruct(tuple(SIZES[name] for name in names), jnp.float32),
        AXES,
        is_leaf=lambda node: isinstance(node, tuple),
    )
}


def placed(name):
    """The sharded state of an optimizer on 2 x 2 x 2 devices, by path."""
    schedule = ScheduleConfig(name="constant")
    optimizer = optimizers.build_optimizer(OptimizerConfig(name=name, schedule=schedule), 10, {"model": AXES})
    create = lambda params: state.create(params, optimizer, loss_scaled=True, averaged=True)
    made = jax.eval_shape(create, PARAMS)
    layout = Layout(mesh.make(MeshConfig(data=2, fsdp=2, tensor=2)))
    shardings = layout.shardings(placing.state_axes(made, {"model": AXES}), made)
    leaves = zip(named_leaves(made), jax.tree.leaves(shardings), strict=True)
    return {path: (leaf, sharding) for (path, leaf), sharding in leaves}


def parts(leaf, sharding):
    """In how many parts an array is divided."""
    return leaf.size // jax.ShapeDtypeStruct(sharding.shard_shape(leaf.shape), leaf.dtype).size


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_leaf_is_divided_as_its_parameter_or_belongs_to_none(name):
    leaves = placed(name)
    params = {path.removeprefix("params/"): leaf for path, leaf in leaves.items() if path.startswith("params/")}
    for path, (leaf, sharding) in leaves.items():
        owner = next((param for param in params if path.endswith(param)), None)
        if owner is None:
            assert path.rpartition("/")[2] in placing.REPLICATED
            assert sharding.is_fully_replicated
        elif leaf.size == params[owner][0].size:
            assert parts(leaf, sharding) == parts(*params[owner]), path
        elif path.split("/model/")[0].endswith("/v") or "norm" in path or "bias" in path:
            assert leaf.shape[-1] == 1, f"{path}: only placeholders are neither moments nor rows nor columns"


def test_moments_of_joined_heads_are_divided_by_heads():
    specs = {path: sharding.spec for path, (_, sharding) in placed("muon").items() if "/mu/" in path}
    place = lambda end: {spec for path, spec in specs.items() if path.endswith(end)}
    assert place("query/kernel") == {PartitionSpec(None, "fsdp", "tensor")}
    assert place("out/kernel") == {PartitionSpec(None, "tensor", "fsdp")}
    assert place("token/embedding") == {PartitionSpec("tensor", "fsdp")}


def test_rows_and_columns_are_divided_as_what_is_left_of_the_matrix():
    leaves = placed("adafactor")
    place = lambda field, end: {
        sharding.spec for path, (_, sharding) in leaves.items() if f"/{field}/model" in path and path.endswith(end)
    }
    # Square matrices: rows are means over the last axis, columns over the one before.
    assert place("v_row", "query/kernel") == place("v_row", "square/kernel") == {PartitionSpec(None, "fsdp")}
    assert place("v_col", "query/kernel") == place("v_col", "square/kernel") == {PartitionSpec(None, "tensor")}
    assert place("v_row", "out/kernel") == {PartitionSpec(None, "tensor")}
    assert place("v_col", "out/kernel") == {PartitionSpec(None, "fsdp")}
    assert place("v_row", "experts/kernel") == {PartitionSpec(None, None, "fsdp")}
    # The longest axis of the token table is its first.
    assert place("v_row", "embedding") == {PartitionSpec("fsdp")}
    assert place("v_col", "embedding") == {PartitionSpec("tensor")}


def test_a_leaf_that_nobody_placed_is_named():
    made = state.TrainState(
        step=jnp.int32(0), updates=jnp.int32(0), params={"w": jnp.ones(2)}, opt_state={"odd": jnp.ones(2)}
    )
    with pytest.raises(ValueError, match="opt_state/odd is no parameter's"):
        placing.state_axes(made, {"w": ("norm",)})
    with pytest.raises(ValueError, match=r"opt_state/w has the shape \(3,\)"):
        placing.state_axes(made.replace(opt_state={"w": jnp.ones(3)}), {"w": ("norm",)})
