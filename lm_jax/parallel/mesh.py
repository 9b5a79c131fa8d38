"""The device mesh: one axis each for data, fully sharded data and tensor parallelism."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax

from lm_jax.core.config import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Sizes of the mesh axes; one of them may be -1: all remaining devices.

    Attributes:
      data: data parallelism: each replica of the model takes a share of the batch.
      fsdp: fully sharded data parallelism: batch and parameters are sharded (Rajbhandari et al. 2020, ZeRO-3).
      tensor: tensor parallelism: each matrix product is sharded (Shoeybi et al. 2019).

    Example:
      >>> dict(make(MeshConfig(data=2, fsdp=-1)).shape)
      {'data': 2, 'fsdp': 4, 'tensor': 1}
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def sizes(config: MeshConfig, devices: int) -> dict[str, int]:
    """Returns the size of each mesh axis; raises InputError unless their product is the number of devices."""
    axes = dataclasses.asdict(config)
    open_axes = [name for name, size in axes.items() if size == -1]
    fixed = math.prod(size for size in axes.values() if size != -1)
    if len(open_axes) > 1 or any(size < 1 and size != -1 for size in axes.values()):
        raise InputError(f"config.mesh is {axes}; expected positive sizes, or -1 (all remaining devices) for one axis")
    if open_axes and fixed and devices % fixed == 0:
        axes[open_axes[0]] = devices // fixed
    if math.prod(axes.values()) != devices:
        raise InputError(
            f"config.mesh {dataclasses.asdict(config)} does not fill {devices} devices; "
            f"set its axes so that their product is {devices}, or one of them to -1"
        )
    return axes


def make(config: MeshConfig, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """Makes a mesh of `devices` (by default all) with axes data, fsdp and tensor."""
    devices = jax.devices() if devices is None else devices
    axes = sizes(config, len(devices))
    # Auto, because jax's default, explicit axes, rejects sharding constraints.
    kinds = (jax.sharding.AxisType.Auto,) * len(axes)
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=kinds, devices=devices)
