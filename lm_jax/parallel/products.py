"""What devices with different rows compute with parameters that are divided between them: products, sums over rows.

Each device gathers a kernel in the type of the product, multiplies its own rows, and adds its share of the gradient to
the others' on the way to the device that keeps it (ZeRO-3: Rajbhandari et al. 2020, arXiv:1910.02054). Left to itself,
XLA's partitioner sums whole gradients on every device of a large slice and then keeps a part.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jaxtyping import Array

from lm_jax.parallel import rings
from lm_jax.parallel.layout import Axes, Layout, active, platform
from lm_jax.parallel.rules import Rules

log = logging.getLogger(__name__)

# Where products are explicit; elsewhere the partitioner divides them.
PLATFORMS = ("tpu",)
# Between fewer devices, of which each has other rows, the partitioner scatters the gradients of layers by itself, and
# hides more of their gathers (docs/claims.md).
LEAST_DEVICES = 32
# Bytes of a part up to which a gather takes the axes of the torus in turn: at once, the compiler would send twice as
# many, as a sum of padded parts.
STAGED = 64 * 2**10
# Bytes in float32 from which a gradient that loops add up is reduced in every iteration, so that a device adds up its
# part only: that sends more, and needs half of the memory of the whole.
LARGE = 2**30
# Of each dimension of a kernel, the mesh axes over which devices with different rows divide it.
Parts = tuple[tuple[str, ...], ...]


def parts(layout: Layout, axes: Axes) -> Parts:
    """Returns, for each dimension of a parameter with these logical axes, the mesh axes that also divide the batch."""
    names = lambda axis: () if axis is None else getattr(layout.rules, axis)
    shared = lambda axis: tuple(name for name in names(axis) if name in layout.rules.batch)
    return tuple(tuple(name for name in shared(axis) if layout.mesh.shape[name] > 1) for axis in axes)


def explicit(rows: int, axes: Axes) -> Layout | None:
    """Returns the active layout if it asks for explicit products of `rows` rows with a kernel with these axes."""
    layout = active()
    if layout is None or platform() not in PLATFORMS or rows % layout.divisor("batch"):
        return None
    return layout if layout.divisor("batch") >= LEAST_DEVICES and any(parts(layout, axes)) else None


def product(layout: Layout, x: Array, kernel: Array, axes: Axes, inputs: int) -> Array:
    """Returns the product `[batch, ..., *outputs]` over the last axes of `x` and the first of `kernel`.

    Args:
      layout: what `explicit` returned.
      x: `[batch, ..., *inputs]`, of which each device has its own rows.
      kernel: `[*inputs, *outputs]` in the type of the product, in which it is gathered and its gradient is reduced.
      axes: logical names of the kernel's axes.
      inputs: number of contracted axes.
    """
    over, divided = layout.rules.batch, parts(layout, axes)
    spec = PartitionSpec(*(names or None for names in divided))
    _report(layout.divisor("batch"))
    return jax.shard_map(
        functools.partial(_product, layout, divided, inputs),
        mesh=layout.mesh,
        in_specs=(PartitionSpec(over), spec),
        out_specs=PartitionSpec(over),
        axis_names={*over},
        check_vma=False,
    )(x, kernel)


@functools.cache
def _report(devices: int) -> None:
    """Logs the choice once for all layers and programs."""
    log.info("products over %d devices gather their kernels and reduce their gradients in rings", devices)


def _gather(layout: Layout, divided: Parts, x: jax.Array) -> jax.Array:
    shape_of_whole = _whole(layout, divided, x.shape)
    for dimension, names in enumerate(divided):
        for name in reversed(names):
            if platform() in PLATFORMS and x.size * x.dtype.itemsize <= STAGED:
                x = rings.gather(layout, x, name, dimension)
                continue
            # As a matrix or [before, dimension, after]: XLA may sum padded arrays of more axes instead.
            lead, shape = math.prod(x.shape[:dimension]), x.shape
            x = jax.lax.all_gather(x.reshape(lead, shape[dimension], -1), name, axis=1, tiled=True)
            x = x.reshape(*shape[:dimension], x.shape[1], *shape[dimension + 1 :])
    return x.reshape(shape_of_whole)


def _scatter(layout: Layout, divided: Parts, x: jax.Array) -> jax.Array:
    """This device's part of the sum of `x` over the devices between which it is divided."""
    for dimension, names in enumerate(divided):
        for name in names:
            if platform() in PLATFORMS:
                x = rings.reduce_scatter(layout, x, name, dimension)
            else:
                x = jax.lax.psum_scatter(x, name, scatter_dimension=dimension, tiled=True)
    return x


def _matrix(layout: Layout, divided: Parts, inputs: int, kernel: jax.Array) -> jax.Array:
    """The whole kernel as a matrix [inputs, outputs]."""
    kernel = _gather(layout, divided, kernel)
    return kernel.reshape(math.prod(kernel.shape[:inputs]), -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _product(layout: Layout, divided: Parts, inputs: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """This device's rows times the whole kernel; its backward pass keeps this device's part of the kernel only."""
    matrix = _matrix(layout, divided, inputs, kernel)
    lead, outputs = x.shape[: x.ndim - inputs], _whole(layout, divided, kernel.shape)[inputs:]
    return (x.reshape(-1, matrix.shape[0]) @ matrix).reshape(*lead, *outputs)


def _forward(layout: Layout, divided: Parts, inputs: int, x: jax.Array, kernel: jax.Array):
    return _product(layout, divided, inputs, x, kernel), (x, kernel)


def _backward(layout: Layout, divided: Parts, inputs: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array):
    x, kernel = saved
    matrix = _matrix(layout, divided, inputs, kernel)
    rows, gradient = x.reshape(-1, matrix.shape[0]), gradient.reshape(-1, matrix.shape[1])
    x_gradient = (gradient @ matrix.T).reshape(x.shape)
    total = (rows.T @ gradient).reshape(_whole(layout, divided, kernel.shape))
    return x_gradient, _scatter(layout, divided, total)


_product.defvjp(_forward, _backward)


def _whole(layout: Layout, divided: Parts, shape: tuple[int, ...]) -> tuple[int, ...]:
    sizes = (math.prod(layout.mesh.shape[name] for name in names) for names in divided)
    return tuple(size * count for size, count in zip(shape, sizes, strict=True))


def sum_over_rows(
    function: Callable[..., Any],
    shared: Any,
    *rows: jax.Array,
    keep: bool = False,
    axes: Any = None,
    dtype: jnp.dtype | None = None,
) -> Any:
    """Applies `function(shared, *rows)` to the rows of each device and sums the results over devices.

    Without an active layout, or with one that does not shard rows, `function` is called directly.

    Args:
      function: returns sums over rows. A loop inside it accumulates per device; the sum over devices follows it.
      shared: a tree of parameters, the same on every device. Axes other than `batch` stay sharded.
      rows: arrays [batch, ...].
      keep: `function` returns a pair: sums, and arrays of its rows, which stay where the rows are.
      axes: logical axes of each leaf of `shared`, where its parameters may be gathered, and their gradients reduced,
        explicitly; None: that is left to the partitioner. Then `function` reads `shared` through `whole`.
      dtype: the type in which they are, and in which `function` gets them.
    """
    layout = active()
    if layout is None or layout.divisor("batch") == 1:
        return function(shared, *rows)
    over = layout.rules.batch
    leaves, structure = jax.tree.flatten(shared)
    asked = axes is not None and platform() in PLATFORMS
    divided = [parts(layout, each) for each in structure.flatten_up_to(axes)] if asked else [()] * len(leaves)

    # Before they are divided, so that replicas add gradients of this type, too.
    leaves = [
        leaf.astype(dtype or leaf.dtype) if any(each) else leaf for each, leaf in zip(divided, leaves, strict=True)
    ]

    def summed(leaves: list[jax.Array], *args: Any) -> Any:
        wholes = [_for_loops(layout, each, leaf) for each, leaf in zip(divided, leaves, strict=True)]
        with _inside(layout).activate():
            results = function(structure.unflatten(wholes), *args)
            return (jax.lax.psum(results[0], over), results[1]) if keep else jax.lax.psum(results, over)

    results = (PartitionSpec(), PartitionSpec(over)) if keep else PartitionSpec()
    return _mapped(layout, summed, divided, len(rows), results)(leaves, *rows)


def on_rows(function: Callable[..., jax.Array], shared: Any, axes: Any, *rows: jax.Array) -> jax.Array:
    """Applies `function(shared, *rows)` to the rows of each device; returns an array of all rows.

    A device gathers the parameters, and once more in the backward pass, instead of keeping them whole until then. Its
    share of their gradients is reduced in their type. Without an active layout, or with one that does not divide the
    rows, `function` is called directly.

    Args:
      function: returns an array of its rows.
      shared: a tree of parameters. Axes other than those of the batch stay sharded.
      axes: the same tree, with the logical axes of each parameter.
      rows: arrays [batch, ...].
    """
    layout = active()
    if layout is None or layout.divisor("batch") == 1 or rows[0].shape[0] % layout.divisor("batch"):
        return function(shared, *rows)
    leaves, structure = jax.tree.flatten(shared)
    divided = [parts(layout, each) for each in structure.flatten_up_to(axes)]

    def local(leaves: list[jax.Array], *args: Any) -> jax.Array:
        wholes = [gathered(layout, each, leaf) for each, leaf in zip(divided, leaves, strict=True)]
        with _inside(layout).activate():
            return function(structure.unflatten([checkpoint_name(leaf, "whole") for leaf in wholes]), *args)

    local = jax.checkpoint(local, policy=jax.checkpoint_policies.save_anything_except_these_names("whole"))
    return _mapped(layout, local, divided, len(rows), PartitionSpec(layout.rules.batch))(leaves, *rows)


def _inside(layout: Layout) -> Layout:
    """The layout inside of a function that is mapped by `_mapped`."""
    mapped = _axes(layout)
    inner = {axis: tuple(name for name in names if name not in mapped) for axis, names in vars(layout.rules).items()}
    return Layout(layout.mesh, Rules(**inner))


def _axes(layout: Layout) -> set[str]:
    """The mesh axes of the batch, and those of one device: a kernel is refused while the partitioner has any axis."""
    return {*layout.rules.batch, *(name for name, size in layout.mesh.shape.items() if size == 1)}


def _mapped(layout: Layout, function: Callable[..., Any], divided: list[Parts], rows: int, results: Any) -> Any:
    """`function(leaves, *rows)`, mapped over the axes of the batch."""
    shared = [PartitionSpec(*(names or None for names in each)) for each in divided]
    return jax.shard_map(
        function,
        mesh=layout.mesh,
        in_specs=(shared, *[PartitionSpec(layout.rules.batch)] * rows),
        out_specs=results,
        axis_names=_axes(layout),
        check_vma=False,
    )


@functools.partial(jax.tree_util.register_dataclass, data_fields=["part", "whole"], meta_fields=["layout", "divided"])
@dataclasses.dataclass(frozen=True)
class Gathered:
    """A large parameter inside a mapped function: this device's part, which has the gradient, and the whole."""

    # Arrays, or whatever a function of trees puts in their place.
    part: Any
    whole: Any
    layout: Layout
    divided: Parts


def is_gathered(leaf: Any) -> bool:
    """Returns whether a node of a tree of parameters is one that `whole` replaces."""
    return isinstance(leaf, Gathered)


def whole(tree: Any) -> Any:
    """Returns the parameters as whole arrays, whose gradients are reduced in the iteration that calls this."""
    attach = lambda leaf: _attached(leaf.layout, leaf.divided, leaf.part, leaf.whole) if is_gathered(leaf) else leaf
    return jax.tree.map(attach, tree, is_leaf=is_gathered)


def _for_loops(layout: Layout, divided: Parts, leaf: jax.Array) -> Any:
    """The whole of a parameter; of a large one also this device's part, to which a loop adds the gradients."""
    size = 4 * math.prod(_whole(layout, divided, leaf.shape)) if any(divided) else 0
    if size < LARGE:
        return gathered(layout, divided, leaf)
    return Gathered(leaf, jax.lax.stop_gradient(_gather(layout, divided, leaf)), layout, divided)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attached(layout: Layout, divided: Parts, part: jax.Array, whole: jax.Array) -> jax.Array:
    """`whole`, with the gradient of `part`."""
    return whole


_attached.defvjp(
    lambda layout, divided, part, whole: (whole, None),
    lambda layout, divided, _, gradient: (_scatter(layout, divided, gradient), None),
)


def gathered(layout: Layout, divided: Parts, leaf: Array) -> Array:
    """Returns the whole of a parameter, inside a function that is mapped over the axes that divide it.

    Each device keeps its part of the sum of the gradients, which is reduced in the parameter's type.
    """
    return _gathered(layout, divided, leaf) if any(divided) else leaf


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gathered(layout: Layout, divided: Parts, leaf: jax.Array) -> jax.Array:
    return _gather(layout, divided, leaf)


_gathered.defvjp(
    lambda layout, divided, leaf: (_gather(layout, divided, leaf), None),
    lambda layout, divided, _, gradient: (_scatter(layout, divided, gradient),),
)
