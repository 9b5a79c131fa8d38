"""Collectives over a mesh axis that follow the torus under it: a reduce-scatter in rings, a gather in stages.

Every link of a torus carries a part of the sums, in both directions, at the same time: a device passes partial sums to
its neighbour and adds its own, so that each sum arrives, complete, where it is kept (Patarasu and Yuan 2009, "Bandwidth
optimal all-reduce algorithms"). Permutations run beside products, where the compiler of TPUs runs its own
reduce-scatter of a large slice alone.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lm_jax.parallel.layout import Layout

# Numbers side by side in a register of a TPU.
LANES = 128


def reduce_scatter(layout: Layout, x: Array, name: str, dimension: int) -> Array:
    """Returns this device's part of the sum of `x` over a mesh axis, divided along a dimension.

    Args:
      layout: its mesh has the axis `name`, over which the calling function is mapped (`jax.shard_map`).
      x: addends of this device; the axis' size divides `dimension`.
      name: the mesh axis.
      dimension: of `x`, divided by the result.
    """
    places = _places(layout, name)
    # Whole rows of parts: parts of a few lanes would be padded to 128.
    rows = jnp.moveaxis(x, dimension, 0)
    kept = rows.shape[0] // places.size
    blocks = rows.reshape(places.size, kept, -1)
    if np.any(places.reshape(-1) != np.arange(places.size)):
        blocks = blocks[places.reshape(-1)]
    blocks = blocks.reshape(*places.shape, kept, -1)
    orders = [(*range(first, places.ndim), *range(first)) for first in range(places.ndim)]
    ways = [(order, direction) for order in orders for direction in (1, -1)]
    size = blocks.shape[-1]
    unit = LANES if size >= LANES * len(ways) else 1
    bounds = [*(size * way // (len(ways) * unit) * unit for way in range(len(ways))), size]
    sums = [
        _along(blocks, (start, stop), places, name, order, direction)
        for (order, direction), start, stop in zip(ways, bounds[:-1], bounds[1:], strict=True)
        if stop > start
    ]
    return jnp.moveaxis(jnp.concatenate(sums, -1).reshape(kept, *rows.shape[1:]), 0, dimension)


def gather(layout: Layout, x: Array, name: str, dimension: int) -> Array:
    """Returns the parts of all devices of a mesh axis, joined along a dimension: one axis of the torus after the other.

    Args:
      layout: its mesh has the axis `name`, over which the calling function is mapped (`jax.shard_map`).
      x: this device's part.
      name: the mesh axis.
      dimension: of `x`, along which it is a part.
    """
    places = _places(layout, name)
    rows = jnp.moveaxis(x, dimension, 0)
    parts = rows.reshape(len(rows), -1)
    for axis in reversed(range(places.ndim)):
        groups = np.moveaxis(places, axis, -1).reshape(-1, places.shape[axis]).tolist()
        parts = jax.lax.all_gather(parts, name, axis_index_groups=groups)
    parts = parts.reshape(places.size, len(rows), -1)
    order = np.argsort(places, axis=None)
    if np.any(order != np.arange(places.size)):
        parts = parts[order]
    return jnp.moveaxis(parts.reshape(-1, *rows.shape[1:]), 0, dimension)


def _places(layout: Layout, name: str) -> np.ndarray:
    """The devices of a mesh axis, arranged as in the torus."""
    axis = layout.mesh.axis_names.index(name)
    return grid(np.moveaxis(layout.mesh.devices, axis, -1).reshape(-1, layout.mesh.shape[name]))


def _along(
    x: jax.Array, lanes: tuple[int, int], places: np.ndarray, name: str, order: tuple[int, ...], direction: int
) -> jax.Array:
    """The sum of `x` [*places kept part] over the devices, at this device's place: one ring for each axis in turn.

    `lanes`: from which to which number of the last axis; they are cut out hop by hop, because a copy of all would be as
    large as `x`.
    """
    index = jax.lax.axis_index(name)
    for axis in order:
        size = places.shape[axis]
        neighbours = np.roll(places, -direction, axis)
        links = list(zip(places.flat, neighbours.flat, strict=True))
        own = jnp.asarray(np.argsort(places, axis=None))[index] // int(np.prod(places.shape[axis + 1 :])) % size
        # Axes that are done have size 1.
        take = functools.partial(_take, x, axis, lanes, own)
        total = take(-direction)
        for hop in range(1, size):
            total = jax.lax.ppermute(total, name, links) + take(-direction * (hop + 1))
        x, lanes = total, (0, total.shape[-1])
    return x.reshape(x.shape[-2:])


def _take(x: jax.Array, axis: int, lanes: tuple[int, int], own: jax.Array, offset: int) -> jax.Array:
    starts, sizes = [jnp.zeros_like(own)] * x.ndim, list(x.shape)
    starts[axis], sizes[axis] = (own + offset) % x.shape[axis], 1
    starts[-1], sizes[-1] = jnp.full_like(own, lanes[0]), lanes[1] - lanes[0]
    return jax.lax.dynamic_slice(x, starts, sizes)


def grid(lines: np.ndarray) -> np.ndarray:
    """Returns the indices of a mesh axis, arranged as their devices are in the torus; in a line if they are in none.

    `lines` are the devices [lines, size of the axis], one line for each place on the other axes.

    Example:
      >>> from lm_jax.parallel import mesh
      >>> grid(mesh.make(mesh.MeshConfig(data=1, fsdp=8)).devices.reshape(1, 8))
      array([0, 1, 2, 3, 4, 5, 6, 7])
    """
    line = np.arange(lines.shape[1])
    if not hasattr(lines[0, 0], "coords"):
        return line
    coordinates = np.array([[device.coords for device in each] for each in lines])
    steps = coordinates - coordinates[:, :1]
    used = [axis for axis in range(steps.shape[-1]) if len(np.unique(steps[0, :, axis])) > 1]
    values = [np.unique(steps[0, :, axis], return_inverse=True) for axis in used]
    shape = tuple(len(found) for found, _ in values)
    # Other lines must have the same form, and a line must fill a box, with one device at each place.
    if not used or (steps != steps[:1]).any() or np.prod(shape) != len(line):
        return line
    places = np.full(shape, -1)
    places[tuple(ranks for _, ranks in values)] = line
    return places if (places >= 0).all() else line
