"""Every leaf of a train state is sharded like its parameter, or replicated."""

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


def sharded_state(name, moments="float32"):
    """(shape, sharding) of every leaf of the train state on 2 x 2 x 2 devices, by path."""
    config = OptimizerConfig(name=name, schedule=ScheduleConfig(name="constant"), moments=moments)
    optimizer = optimizers.build_optimizer(config, 10, {"model": AXES})
    create = lambda params: state.create(params, optimizer, loss_scaled=True, averaged=True)
    shapes = jax.eval_shape(create, PARAMS)
    layout = Layout(mesh.make(MeshConfig(data=2, fsdp=2, tensor=2)))
    shardings = layout.shardings(placing.state_axes(shapes, {"model": AXES}), shapes)
    leaves = zip(named_leaves(shapes), jax.tree.leaves(shardings), strict=True)
    return {path: (leaf, sharding) for (path, leaf), sharding in leaves}


def shards(leaf, sharding):
    """The number of shards of an array."""
    return leaf.size // jax.ShapeDtypeStruct(sharding.shard_shape(leaf.shape), leaf.dtype).size


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_leaf_is_sharded_like_its_parameter_or_replicated(name):
    leaves = sharded_state(name)
    params = {path.removeprefix("params/"): leaf for path, leaf in leaves.items() if path.startswith("params/")}
    for path, (leaf, sharding) in leaves.items():
        owner = next((param for param in params if path.endswith(param)), None)
        if owner is None:
            assert path.rpartition("/")[2] in placing.REPLICATED
            assert sharding.is_fully_replicated
        elif leaf.size == params[owner][0].size:
            assert shards(leaf, sharding) == shards(*params[owner]), path
        elif path.split("/model/")[0].endswith("/v") or "norm" in path or "bias" in path:
            assert leaf.shape[-1] == 1, f"{path}: neither a moment, a row, a column nor a placeholder"


def test_moments_of_joined_heads_are_sharded_by_heads():
    specs = {path: sharding.spec for path, (_, sharding) in sharded_state("muon").items() if "/mu/" in path}
    specs_of = lambda end: {spec for path, spec in specs.items() if path.endswith(end)}
    assert specs_of("query/kernel") == {PartitionSpec(None, "fsdp", "tensor")}
    assert specs_of("out/kernel") == {PartitionSpec(None, "tensor", "fsdp")}
    assert specs_of("token/embedding") == {PartitionSpec("tensor", "fsdp")}


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "adafactor"])
def test_codes_are_sharded_like_their_moments_and_scales_like_their_other_axes(name):
    plain, coded = sharded_state(name), sharded_state(name, "int8")
    scales = {path: leaf for path, leaf in coded.items() if "/scales/" in path}
    assert scales
    for path, (scale, sharding) in scales.items():
        codes, own = coded[path.replace("/scales/", "/inner/")]
        # The state of the transformation is one level deeper.
        moment, expected = plain[path.replace("/scales/", "/")]
        assert (codes.shape, codes.dtype.itemsize, own.spec) == (moment.shape, 1, expected.spec), path
        assert scale.shape == (*moment.shape[:-1], 1)
        assert sharding.spec == PartitionSpec(*expected.spec[:-1], None), path


def test_rows_and_columns_are_sharded_like_the_remaining_axis_of_the_matrix():
    leaves = sharded_state("adafactor")
    specs_of = lambda field, end: {
        sharding.spec for path, (_, sharding) in leaves.items() if f"/{field}/model" in path and path.endswith(end)
    }
    # Square matrices: rows are means over the last axis, columns over the axis before it.
    assert specs_of("v_row", "query/kernel") == specs_of("v_row", "square/kernel") == {PartitionSpec(None, "fsdp")}
    assert specs_of("v_col", "query/kernel") == specs_of("v_col", "square/kernel") == {PartitionSpec(None, "tensor")}
    assert specs_of("v_row", "out/kernel") == {PartitionSpec(None, "tensor")}
    assert specs_of("v_col", "out/kernel") == {PartitionSpec(None, "fsdp")}
    assert specs_of("v_row", "experts/kernel") == {PartitionSpec(None, None, "fsdp")}
    # The longest axis of the token table is its first.
    assert specs_of("v_row", "embedding") == {PartitionSpec("fsdp")}
    assert specs_of("v_col", "embedding") == {PartitionSpec("tensor")}


def test_a_leaf_without_axes_is_named():
    odd = state.TrainState(
        step=jnp.int32(0), updates=jnp.int32(0), params={"w": jnp.ones(2)}, opt_state={"odd": jnp.ones(2)}
    )
    with pytest.raises(ValueError, match="opt_state/odd matches no parameter"):
        placing.state_axes(odd, {"w": ("norm",)})
    with pytest.raises(ValueError, match=r"opt_state/w has the shape \(3,\)"):
        placing.state_axes(odd.replace(opt_state={"w": jnp.ones(3)}), {"w": ("norm",)})
