"""Layouts shard arrays by the names of their axes; a wrong name is an error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec

from lm_jax.core.config import InputError
from lm_jax.parallel import mesh
from lm_jax.parallel.layout import Layout, constrain
from lm_jax.parallel.mesh import MeshConfig
from lm_jax.parallel.products import sum_over_rows
from lm_jax.parallel.rules import Rules


def layout(data=2, fsdp=2, tensor=2, rules=None):
    config = MeshConfig(data=data, fsdp=fsdp, tensor=tensor)
    return Layout(mesh.make(config, jax.devices()[: data * fsdp * tensor]), rules or Rules())


def test_axes_are_sharded_according_to_the_rules():
    assert layout().spec(("layers", "embed", "heads", None)) == PartitionSpec(None, "fsdp", "tensor", None)


def test_an_unknown_axis_raises_with_the_nearest():
    with pytest.raises(KeyError, match="unknown logical axis 'embd'; did you mean embed"):
        layout().spec(("embd",))


def test_two_dimensions_on_one_mesh_axis_raise():
    with pytest.raises(InputError, match=r"config\.rules\.mlp is \('tensor',\), but config\.rules\.heads .*'tensor'"):
        layout().spec(("heads", "mlp"))
    with pytest.raises(InputError, match=r"config\.rules\.embed .*config\.rules\.batch .*'fsdp'"):
        layout().spec(("batch", "embed"))


def test_constrain_raises_only_inside_a_layout():
    x = jnp.ones((4, 4))
    assert constrain(x, "no such axis", None) is x
    with pytest.raises(KeyError, match="unknown logical axis"):
        layout().jit(lambda x: constrain(x, "no such axis", None))(x)
    with pytest.raises(ValueError, match=r"2 axes; expected as many names, got \('batch', None, None\)"):
        layout().jit(lambda x: constrain(x, "batch", None, None))(x)


def test_a_constraint_shards():
    sharded = layout().jit(lambda x: constrain(x * 2, "batch", "mlp"))(jnp.ones((8, 6)))
    assert {shard.data.shape for shard in sharded.addressable_shards} == {(2, 3)}


def test_a_layout_never_reuses_a_trace_of_another():
    double = lambda x: constrain(x * 2, "batch", "mlp")
    x = jnp.ones((8, 8))
    by_rows, by_columns = layout(8, 1, 1), layout(1, 1, 8)
    shapes = [each.jit(double)(x).addressable_shards[0].data.shape for each in (by_rows, by_columns, by_rows)]
    assert shapes == [(1, 8), (8, 1), (1, 8)]
    replicated = layout(8, 1, 1, Rules(batch=())).jit(double)(x)
    assert replicated.addressable_shards[0].data.shape == (8, 8)


def test_a_layout_is_inactive_after_an_error():
    with pytest.raises(RuntimeError), layout().activate():
        raise RuntimeError
    x = jnp.ones((4, 4))
    assert constrain(x, "no such axis", None) is x


def test_parameters_that_are_not_divisible_are_named():
    axes = {"in": ("embed", "mlp")}
    shapes = {"in": jax.ShapeDtypeStruct((6, 5), jnp.float32)}
    with pytest.raises(
        InputError,
        match=r"in: axis mlp of size 5 .* 2 devices of mesh axis tensor; use 4 or 6, or config\.mesh\.tensor=1 or 5",
    ):
        layout().shardings(axes, shapes)
    both = r"size 6 .* of mesh axis data x fsdp; use 4 or 8, or a smaller config\.mesh\.data or config\.mesh\.fsdp"
    with pytest.raises(InputError, match=both):
        layout(rules=Rules(embed=("data", "fsdp"))).shardings(axes, shapes)


def test_shardings_are_a_tree_like_the_parameters():
    axes = {"a": {"kernel": ("embed", "mlp"), "bias": ("mlp",)}, "norm": ("norm",)}
    shapes = jax.tree.map(
        lambda names: jax.ShapeDtypeStruct((4,) * len(names), jnp.float32), axes, is_leaf=lambda n: isinstance(n, tuple)
    )
    shardings = layout().shardings(axes, shapes)
    assert shardings["a"]["kernel"].spec == PartitionSpec("fsdp", "tensor")
    assert shardings["a"]["bias"].spec == PartitionSpec("tensor")
    assert shardings["norm"].spec == PartitionSpec(None)


def test_a_batch_is_sharded_over_data_and_fsdp():
    batch = {"tokens": np.arange(24).reshape(8, 3), "pairs": np.arange(8.0)}
    put = tiny.put(layout(), batch)
    assert {shard.data.shape for shard in put["tokens"].addressable_shards} == {(2, 3)}
    for name, values in batch.items():
        np.testing.assert_array_equal(put[name], values)
    assert layout().divisor("batch") == 4


def test_a_batch_is_sharded_by_the_axes_of_its_features():
    by_length = layout(rules=Rules(length=("tensor",), heads=(), groups=(), mlp=()))
    batch = {"tokens": np.arange(24, dtype=np.int64).reshape(8, 3)[:, :2], "pairs": np.arange(8.0)}
    put = tiny.put(by_length, batch, tokens=("length",))
    for name, shape in (("tokens", (2, 1)), ("pairs", (2,))):
        assert {shard.data.shape for shard in put[name].addressable_shards} == {shape}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (Rules(stream=("tensr",)), r"config\.rules\.stream .*'tensr' is not one of .*did you mean tensor"),
        (Rules(stream=("data",)), r"config\.rules\.stream .*config\.rules\.batch .*'data'"),
        (Rules(length=("tensor",)), r"config\.rules\.heads .*config\.rules\.length .*'tensor'"),
        (Rules(mlp=("tensor", "tensor")), r"config\.rules\.mlp .*config\.rules\.mlp .*'tensor'"),
    ],
)
def test_invalid_rules_are_refused_with_their_key(rules, message):
    with pytest.raises(InputError, match=message):
        layout(rules=rules)


def test_sums_over_rows_do_not_depend_on_the_number_of_devices():
    rows, scale = jnp.arange(32.0).reshape(8, 4), jnp.float32(3)
    total = lambda scale, rows: sum_over_rows(lambda scale, rows: (scale * rows**2).sum(), scale, rows)
    both = jax.value_and_grad(total, argnums=(0, 1))
    results = layout().jit(both)(scale, rows), both(scale, rows)
    for sharded, expected in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(sharded, expected, rtol=1e-6)


def test_one_process_reads_all_rows_in_order():
    np.testing.assert_array_equal(layout().local_rows(12), np.arange(12))
