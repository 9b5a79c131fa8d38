"""Rows of a table whose parameters are divided over devices: each device looks up the ids of its own rows."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from lm_jax.parallel.layout import Layout, active
from lm_jax.parallel.products import gathered


def look_up(
    table: Float[Array, "vocab width"],
    ids: Int[Array, "*batch"],
    axes: tuple[str, str],
    dtype: jnp.dtype,
    length: str | None = None,
) -> Float[Array, "*batch width"]:
    """Returns the rows of `ids`.

    Where a layout divides the batch, a device gathers the table in `dtype`, once, and looks up its own ids. Its
    gradient adds those rows to a table in float32, and is then reduced and divided in `dtype`. Left to itself, XLA's
    partitioner divides the result like the table and the ids not at all, so that every device handles those of the
    whole batch. Rows of the table that are divided too, as by tensor parallelism, are looked up where they are.

    Args:
      table: parameters.
      ids: of the global batch.
      axes: logical names of the table's axes.
      dtype: of the result.
      length: logical name of the second axis of `ids`, over which the result is divided.
    """
    layout = active()
    if layout is None or layout.divisor("batch") == 1 or ids.shape[0] % layout.divisor("batch"):
        return jnp.take(table, ids, axis=0).astype(dtype)
    over_rows = getattr(layout.rules, axes[0])
    divides = length is not None and ids.shape[1] % layout.divisor(length) == 0
    over_length = getattr(layout.rules, length) if length is not None and divides else ()
    # What devices with other rows of the table find is added up, for ids that they must have in common.
    common = bool({*over_rows} & {*over_length})
    over_length = () if common and over_rows != over_length else over_length
    batch = layout.rules.batch
    local = functools.partial(_local, layout, axes, over_length if common else ())
    return jax.shard_map(
        local,
        mesh=layout.mesh,
        in_specs=(layout.spec(axes), PartitionSpec(batch, () if common else over_length)),
        out_specs=PartitionSpec(batch, over_length),
        check_vma=False,
    )(table.astype(dtype), ids)


def _local(
    layout: Layout,
    axes: tuple[str, str],
    scattered: tuple[str, ...],
    table: jax.Array,
    ids: jax.Array,
) -> jax.Array:
    """The rows of this device's ids, from its part of the table; `scattered`: mesh axes that divide the result."""
    over_rows, over_width = (getattr(layout.rules, axis) for axis in axes)
    table = gathered(layout, ((), tuple(name for name in over_width if layout.mesh.shape[name] > 1)), table)
    if layout.divisor(axes[0]) == 1:
        return _take(table, ids)
    first = jax.lax.axis_index(over_rows) * table.shape[0]
    here = (ids >= first) & (ids < first + table.shape[0])
    rows = _take(table, jnp.where(here, ids - first, 0)) * here[..., None].astype(table.dtype)
    if scattered:
        return jax.lax.psum_scatter(rows, scattered, scatter_dimension=1, tiled=True)
    return jax.lax.psum(rows, over_rows)


@jax.custom_vjp
def _take(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Rows of a table, whose gradient is summed in float32: an id may occur thousands of times."""
    return jnp.take(table, ids, axis=0)


def _take_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, None]:
    table, ids = saved
    total = jnp.zeros(table.shape, jnp.float32).at[ids].add(gradient.astype(jnp.float32))
    return total.astype(table.dtype), None


_take.defvjp(lambda table, ids: (_take(table, ids), (table, ids)), _take_backward)
