"""The device mesh: data, fully sharded data and tensor parallelism as three axes of one grid of devices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax

from lm_jax.core.config import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How many devices each kind of parallelism takes; one of them may be -1: all that are left.

    Attributes:
      data: copies of the model, each with its share of the batch.
      fsdp: devices that share the batch and also the parameters (Rajbhandari et al. 2020, ZeRO-3).
      tensor: devices that share each matrix product (Shoeybi et al. 2019).
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def sizes(config: MeshConfig, devices: int) -> dict[str, int]:
    """The size of each mesh axis on `devices` devices.

    Raises:
      InputError: the axes do not multiply to the number of devices.
    """
    axes = dataclasses.asdict(config)
    open_axes = [name for name, size in axes.items() if size == -1]
    known = math.prod(size for size in axes.values() if size != -1)
    if len(open_axes) > 1 or any(size < 1 and size != -1 for size in axes.values()):
        raise InputError(f"config.mesh is {axes}; expected positive sizes, at most one of them -1 (all that are left)")
    if open_axes and known and devices % known == 0:
        axes[open_axes[0]] = devices // known
    if math.prod(axes.values()) != devices:
        raise InputError(
            f"config.mesh {dict(dataclasses.asdict(config))} does not fill {devices} devices; "
            f"set its axes so that their product is {devices}, or one of them to -1"
        )
    return axes


def make(config: MeshConfig, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """A mesh of `devices` (all of them by default) with axes data, fsdp and tensor."""
    devices = jax.devices() if devices is None else devices
    axes = sizes(config, len(devices))
    # Auto: explicit axes, jax's default, reject sharding constraints.
    kinds = (jax.sharding.AxisType.Auto,) * len(axes)
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=kinds, devices=devices)
