"""Layout: a mesh with sharding rules, the library's only interface to both.

A layout is active while a function is traced, so that `constrain` inside a model can use it. Each layout jits its own
function, so nothing traced under one set of rules is reused under another.
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
    """How arrays are sharded: a mesh of devices, and rules that map logical axes to mesh axes.

    Raises:
      InputError: a rule names an unknown mesh axis, or two rules shard one activation over the same mesh axis.

    Example:
      >>> from lm_jax.parallel import mesh
      >>> layout = Layout(mesh.make(mesh.MeshConfig(fsdp=2, tensor=4)))
      >>> tuple(layout.spec(("layers", "embed", "heads", "kv")))
      (None, 'fsdp', 'tensor', None)
    """

    mesh: Mesh
    rules: Rules = Rules()

    def __post_init__(self):
        for axis, names in vars(self.rules).items():
            for name in set(names) - set(self.mesh.axis_names):
                raise InputError(
                    f"config.rules.{axis} is {names}, but {name!r} is not one of the mesh axes "
                    f"{', '.join(self.mesh.axis_names)}{nearest(name, self.mesh.axis_names)}"
                )
        for axes in ACTIVATIONS:
            self.spec(axes)

    def spec(self, axes: Axes) -> PartitionSpec:
        """Returns the PartitionSpec of an array with these logical axes.

        Raises:
          KeyError: the rules lack an axis.
          InputError: two axes are sharded over the same mesh axis.
        """
        rules, used, parts = vars(self.rules), dict[str, str](), []
        for axis in axes:
            if axis is not None and axis not in rules:
                raise KeyError(f"unknown logical axis {axis!r}{nearest(axis, rules)}; known: {', '.join(rules)}")
            names = rules[axis] if axis is not None else ()
            for name in names:
                if name in used:
                    raise InputError(
                        f"config.rules.{axis} is {names}, but config.rules.{used[name]} already shards another axis "
                        f"of the same array {axes} over {name!r}; give one of them other mesh axes, or ()"
                    )
                used[name] = str(axis)
            parts.append(names[0] if len(names) == 1 else names or None)
        return PartitionSpec(*parts)

    def sharding(self, axes: Axes) -> NamedSharding:
        """Returns the sharding of an array with these logical axes."""
        return NamedSharding(self.mesh, self.spec(axes))

    @property
    def replicated(self) -> NamedSharding:
        """The sharding with a full copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def shardings(self, axes: Any, shapes: Any) -> Any:
        """Returns the shardings of a tree of parameters.

        Args:
          axes: a tuple of logical axis names for each parameter.
          shapes: the same tree, whose leaves have a `shape`.

        Raises:
          InputError: a dimension is not divisible by the size of its mesh axes.
        """

        def checked(path: str, names: Axes, shape: Any) -> NamedSharding:
            sharding = self.sharding(names)
            for size, name in zip(shape.shape, names, strict=True):
                over = () if name is None else vars(self.rules)[name]
                shards = self._size(over)
                if size % shards:
                    low = size - size % shards
                    use = f"{low} or {low + shards}" if low else f"{shards}"
                    meshes = f"a smaller config.mesh.{' or config.mesh.'.join(over)}"
                    if len(over) == 1:
                        meshes = f"config.mesh.{over[0]}={_nearest_divisors(size, shards)}"
                    raise InputError(
                        f"{path}: axis {name} of size {size} is not divisible by the {shards} devices of mesh axis "
                        f"{' x '.join(over)}; use {use}, or {meshes}"
                    )
            return sharding

        leaves = iter(jax.tree.structure(shapes).flatten_up_to(axes))
        return map_named(lambda path, shape: checked(path, next(leaves), shape), shapes)

    def jit(self, function: Callable[..., Any], *, once: bool = False, **options: Any) -> Callable[..., Any]:
        """Like `jax.jit`, with this layout active while `function` is traced.

        `once`: the function is called once, so that on a CPU less time is spent on optimising it.
        """
        if once and self.mesh.devices.flat[0].platform == "cpu":
            options["compiler_options"] = {"xla_backend_optimization_level": 1}

        def traced(*args: Any) -> Any:
            with self.activate():
                return function(*args)

        traced.__name__ = getattr(function, "__name__", "function")
        return jax.jit(traced, **options)

    @contextlib.contextmanager
    def activate(self) -> Iterator[None]:
        """A context in which this is the layout that `constrain` uses."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def divisor(self, axis: str) -> int:
        """Returns the number of shards of a logical axis, which must divide its size."""
        return self._size(getattr(self.rules, axis))

    def local_rows(self, batch: int) -> np.ndarray:
        """Returns the rows of a global batch on the devices of this process, in order."""
        local = self.sharding(("batch",)).addressable_devices_indices_map((batch,))
        return np.unique(np.concatenate([np.arange(batch)[index[0]] for index in local.values() if index is not None]))

    @staticmethod
    def put(batch: Mapping[str, np.ndarray], like: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
        """Builds global arrays from this process's rows of a batch.

        Args:
          batch: features by name, [rows of this process, ...].
          like: number of rows and shardings of the global batch.
        """
        make, shape = jax.make_array_from_process_local_data, lambda name: (like[name].shape[0], *batch[name].shape[1:])
        return {name: make(like[name].sharding, value, shape(name)) for name, value in batch.items()}

    def _size(self, mesh_axes: tuple[str, ...]) -> int:
        return math.prod(self.mesh.shape[name] for name in mesh_axes)


def _nearest_divisors(size: int, parts: int) -> str:
    """Names the largest divisor of `size` below `parts`, and the smallest above it."""
    divisors = [number for number in range(1, size + 1) if size % number == 0]
    low, high = [number for number in divisors if number < parts], [number for number in divisors if number > parts]
    return " or ".join(str(number) for number in (*low[-1:], *high[:1]))


def active() -> Layout | None:
    """Returns the layout under which a function is being traced; None outside of one."""
    return _current.get()


def platform() -> str:
    """Returns jax's name for the platform of the active layout; without one, of jax's default backend."""
    layout = active()
    return jax.default_backend() if layout is None else layout.mesh.devices.flat[0].platform


def device_kind() -> str:
    """Returns jax's name for a device of the active layout, such as `TPU v4`; without one, for its default device."""
    layout = active()
    return (jax.devices()[0] if layout is None else layout.mesh.devices.flat[0]).device_kind


def divided(*axes: str) -> bool:
    """Returns whether the active layout divides one of these logical axes over devices."""
    layout = active()
    return layout is not None and any(layout.divisor(axis) > 1 for axis in axes)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains the sharding of an activation by its logical axes; without an active layout, returns it unchanged."""
    layout = active()
    if layout is None or layout.mesh.size == 1:
        return x
    if len(axes) != x.ndim:
        raise ValueError(f"an array of shape {x.shape} has {x.ndim} axes; expected as many names, got {axes}")
    return jax.lax.with_sharding_constraint(x, layout.sharding(axes))
