"""Layout: a mesh and rules, and everything that the rest of the library does with them.

A layout is entered while a function is traced, so that `constrain` inside a model finds it. Each layout makes its own
jitted function: nothing traced under one set of rules is ever reused under another.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lm_jax.core.config import InputError, nearest
from lm_jax.core.trees import map_named
from lm_jax.parallel.rules import ACTIVATIONS, Rules

Axes = tuple[str | None, ...]
_current: contextvars.ContextVar[Layout | None] = contextvars.ContextVar("layout", default=None)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where arrays live.

    Attributes:
      mesh: the devices.
      rules: logical axis to mesh axes.

    Raises:
      InputError: a rule with an unknown mesh axis, or two on one mesh axis that divide one activation.
    """

    mesh: Mesh
    rules: Rules = Rules()

    def __post_init__(self):
        for axis, names in vars(self.rules).items():
            for name in set(names) - set(self.mesh.axis_names):
                raise InputError(
                    f"config.rules.{axis} is {names}, and {name!r} is none of the mesh axes "
                    f"{', '.join(self.mesh.axis_names)}{nearest(name, self.mesh.axis_names)}"
                )
        for axes in ACTIVATIONS:
            self.spec(axes)

    def spec(self, axes: Axes) -> PartitionSpec:
        """The partition of an array with these logical axes.

        Raises:
          KeyError: an axis that the rules do not know.
          InputError: two axes that go to the same mesh axis.
        """
        known, used, parts = vars(self.rules), dict[str, str](), []
        for axis in axes:
            if axis is not None and axis not in known:
                raise KeyError(f"unknown logical axis {axis!r}{nearest(axis, known)}; known: {', '.join(known)}")
            names = known[axis] if axis is not None else ()
            for name in names:
                if name in used:
                    raise InputError(
                        f"config.rules.{axis} is {names}, but config.rules.{used[name]} divides another axis of the "
                        f"same array {axes} over {name!r} already; give one of them other mesh axes, or ()"
                    )
                used[name] = str(axis)
            parts.append(names[0] if len(names) == 1 else names or None)
        return PartitionSpec(*parts)

    def sharding(self, axes: Axes) -> NamedSharding:
        """The sharding of an array with these logical axes."""
        return NamedSharding(self.mesh, self.spec(axes))

    @property
    def replicated(self) -> NamedSharding:
        """A full copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def shardings(self, axes: Any, shapes: Any) -> Any:
        """Shardings of a tree of parameters.

        Args:
          axes: tuples of logical axis names, one a parameter.
          shapes: the same tree of anything with a shape.

        Raises:
          InputError: a dimension that its mesh axis does not divide.
        """

        def one(path: str, names: Axes, shape: Any) -> NamedSharding:
            sharding = self.sharding(names)
            for size, part, name in zip(shape.shape, sharding.spec, names, strict=True):
                parts = self._size(part)
                if size % parts:
                    low = size - size % parts
                    use = f"{low} or {low + parts}" if low else f"{parts}"
                    part = part if isinstance(part, str) else " x ".join(part or ())
                    raise InputError(
                        f"{path}: axis {name} of size {size} is not divisible by the {parts} devices of mesh "
                        f"axis {part}; use {use}, or a smaller config.mesh.{part}"
                    )
            return sharding

        leaves = iter(jax.tree.structure(shapes).flatten_up_to(axes))
        return map_named(lambda path, shape: one(path, next(leaves), shape), shapes)

    def jit(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        """`jax.jit` with this layout in force while `function` is traced."""

        def traced(*args: Any) -> Any:
            with self.entered():
                return function(*args)

        traced.__name__ = getattr(function, "__name__", "function")
        return jax.jit(traced, **options)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Makes this the layout that `constrain` uses."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def batch_divisor(self) -> int:
        """What the number of rows of a batch must be divisible by."""
        return self._size(self.rules.batch)

    def local_rows(self, batch: int) -> np.ndarray:
        """Rows of a global batch that the devices of this process hold, in order."""
        where = self.sharding(("batch",)).addressable_devices_indices_map((batch,))
        return np.unique(np.concatenate([np.arange(batch)[index[0]] for index in where.values() if index is not None]))

    @staticmethod
    def put(batch: Mapping[str, np.ndarray], like: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
        """This process's rows of a batch as global arrays.

        Args:
          batch: features by name, [rows of this process, ...].
          like: shapes and shardings of the global batch.
        """
        make = jax.make_array_from_process_local_data
        return {name: make(like[name].sharding, value, like[name].shape) for name, value in batch.items()}

    def _size(self, part: str | tuple[str, ...] | None) -> int:
        names = (part,) if isinstance(part, str) else part or ()
        return math.prod(self.mesh.shape[name] for name in names)


def over_rows(function: Callable[..., Any], whole: Any, *rows: jax.Array) -> Any:
    """The sum over devices of `function(whole, *rows)`, which sees the rows of one device.

    Inside, other axes than rows are divided as before. What `function` keeps in a loop is kept by each device for
    itself, and summed after it. Where the layout in force divides no rows, or there is none, this is a plain call.

    Args:
      function: gives sums over rows.
      whole: what it gets besides rows.
      rows: arrays [batch, ...].
    """
    layout = _current.get()
    if layout is None or layout.batch_divisor() == 1:
        return function(whole, *rows)
    over = layout.rules.batch
    rest = {axis: tuple(name for name in names if name not in over) for axis, names in vars(layout.rules).items()}

    def own(*args: Any) -> Any:
        with Layout(layout.mesh, Rules(**rest)).entered():
            return jax.lax.psum(function(*args), over)

    specs = (PartitionSpec(), *[PartitionSpec(over)] * len(rows))
    mapped = jax.shard_map(
        own, mesh=layout.mesh, in_specs=specs, out_specs=PartitionSpec(), axis_names={*over}, check_vma=False
    )
    return mapped(whole, *rows)


def platform() -> str:
    """What the layout in force computes on, as jax names it; outside a layout jax's default."""
    layout = _current.get()
    return jax.default_backend() if layout is None else layout.mesh.devices.flat[0].platform


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Fixes where an activation lives by the logical names of its axes; outside a layout nothing happens."""
    layout = _current.get()
    if layout is None or layout.mesh.size == 1:
        return x
    if len(axes) != x.ndim:
        raise ValueError(f"an array of shape {x.shape} has {x.ndim} axes, but {len(axes)} names came: {axes}")
    return jax.lax.with_sharding_constraint(x, layout.sharding(axes))
