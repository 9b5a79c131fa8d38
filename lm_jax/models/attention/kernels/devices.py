"""A kernel that XLA cannot divide over devices, applied by each device to its own rows and heads."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from lm_jax.models.attention.masks import Visibility
from lm_jax.parallel.layout import active


def over_devices(
    attend: Callable[..., Array],
    q: Float[Array, "batch heads query kv"],
    k: Float[Array, "batch groups key kv"],
    v: Float[Array, "batch groups key kv"],
    visibility: Visibility,
    bias: Float[Array, "#batch heads query key"] | None = None,
) -> Float[Array, "batch heads query kv"]:
    """Calls `attend` with the rows and heads of each device of the active layout, and with the bias if there is one.

    Rows or heads whose number the devices do not divide are computed by all of them; so are heads that share keys with
    those of another device, unless all heads share one key.
    """
    layout, biases = active(), () if bias is None else (bias,)
    if layout is None or layout.mesh.size == 1:
        return attend(q, k, v, visibility, *biases)
    batch, groups, shards = q.shape[0], k.shape[1], layout.divisor("heads")
    rows = layout.rules.batch if batch % layout.divisor("batch") == 0 else ()
    heads = layout.rules.heads if q.shape[1] % shards == 0 and (groups == 1 or groups % shards == 0) else ()
    query_spec, key_spec = PartitionSpec(rows, heads), PartitionSpec(rows, heads if groups > 1 else ())
    # The fields of a visibility have one entry, or one per row.
    by_row = lambda field: PartitionSpec(rows) if jnp.ndim(field) and field.shape[0] == batch else PartitionSpec()
    bias_specs = tuple(PartitionSpec(rows if each.shape[0] == batch else (), heads) for each in biases)
    return jax.shard_map(
        attend,
        mesh=layout.mesh,
        in_specs=(query_spec, key_spec, key_spec, jax.tree.map(by_row, visibility), *bias_specs),
        out_specs=query_spec,
        check_vma=False,
    )(q, k, v, visibility, *biases)
