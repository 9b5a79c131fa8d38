"""The device mesh: one axis each for data, fully sharded data and tensor parallelism.

Devices may belong to several slices, which a slower network connects: TPU slices, or hosts with GPUs. The data axis
then spans the slices, because data parallelism exchanges the least: one sum of the gradients a step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils

from lm_jax.core.config import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Sizes of the mesh axes; one of them may be -1: all remaining devices.

    Attributes:
      data: data parallelism: each replica of the model takes a share of the batch.
      fsdp: fully sharded data parallelism: batch and parameters are sharded (Rajbhandari et al. 2020, ZeRO-3).
      tensor: tensor parallelism: each matrix product is sharded (Shoeybi et al. 2019).
      auto: any number of axes may be -1: the trainer chooses their sizes (`experiment.automatic`). `config.mesh=auto`
        sets this, and all axes to -1. Where nothing is trained, the first open axis gets all remaining devices.

    Example:
      >>> dict(make(MeshConfig(data=2, fsdp=-1)).shape)
      {'data': 2, 'fsdp': 4, 'tensor': 1}
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    auto: bool = False


# What a configuration's `mesh="auto"` stands for.
AUTO = {"auto": True, "data": -1, "fsdp": -1, "tensor": -1}


def sizes(config: MeshConfig, devices: int) -> dict[str, int]:
    """Returns the size of each mesh axis; raises InputError unless their product is the number of devices."""
    axes = {name: getattr(config, name) for name in ("data", "fsdp", "tensor")}
    open_axes = [name for name, size in axes.items() if size == -1]
    fixed = math.prod(size for size in axes.values() if size != -1)
    if config.auto:
        axes |= dict.fromkeys(open_axes[1:], 1)
        open_axes = open_axes[:1]
    if len(open_axes) > 1 or any(size < 1 and size != -1 for size in axes.values()):
        raise InputError(f"config.mesh is {axes}; expected positive sizes, or -1 (all remaining devices) for one axis")
    if open_axes and fixed and devices % fixed == 0:
        axes[open_axes[0]] = devices // fixed
    if math.prod(axes.values()) != devices:
        raise InputError(
            f"config.mesh {axes} does not fill {devices} devices; "
            f"set its axes so that their product is {devices}, or one of them to -1"
        )
    return axes


def make(config: MeshConfig, devices: Sequence[Any] | jax.sharding.Mesh | None = None) -> jax.sharding.Mesh:
    """Makes a mesh of `devices` (by default all) with axes data, fsdp and tensor; raises InputError as `sizes` does.

    A mesh in their place is returned as it is, whatever the configuration says.
    """
    if isinstance(devices, jax.sharding.Mesh):
        return devices
    devices = jax.devices() if devices is None else devices
    axes = sizes(config, len(devices))
    # Auto, because jax's default, explicit axes, rejects sharding constraints.
    kinds = (jax.sharding.AxisType.Auto,) * len(axes)
    if len({getattr(device, "slice_index", 0) for device in devices}) > 1:
        return jax.sharding.Mesh(across_slices(axes, devices), tuple(axes), axis_types=kinds)
    try:
        return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=kinds, devices=devices)
    except NotImplementedError:
        # An axis of the mesh ends inside an axis of the torus: 32 devices of 4 x 4 x 4.
        split = mesh_utils.create_device_mesh(tuple(axes.values()), devices, allow_split_physical_axes=True)
        return jax.sharding.Mesh(split, tuple(axes), axis_types=kinds)


def across_slices(axes: Mapping[str, int], devices: Sequence[Any]) -> np.ndarray:
    """Arranges devices of several slices, which `jax.make_mesh` refuses, so that the data axis spans the slices.

    Args:
      axes: size of each mesh axis, in the order data, fsdp, tensor.
      devices: as many devices; those of one slice have the same `slice_index`.

    Raises:
      InputError: the number of TPU slices does not divide the data axis. Hosts with GPUs may share the other axes.
    """
    shape, slices = tuple(axes.values()), len({device.slice_index for device in devices})
    if devices[0].platform != "tpu":
        return np.array(sorted(devices, key=lambda device: (device.slice_index, device.id))).reshape(shape)
    if axes["data"] % slices:
        raise InputError(
            f"config.mesh.data is {axes['data']}, but the devices form {slices} TPU slices and only the data axis can "
            f"span slices; use config.mesh.data={slices} or a multiple of it, and config.mesh.fsdp=-1 for the rest"
        )
    inner, outer = (shape[0] // slices, *shape[1:]), (slices, 1, 1)
    return mesh_utils.create_hybrid_device_mesh(inner, outer, devices, allow_split_physical_axes=True)
