"""A mesh uses all devices, or the error says how to."""

import jax
import pytest

from lm_jax.core.config import InputError
from lm_jax.parallel import mesh
from lm_jax.parallel.mesh import MeshConfig


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (MeshConfig(), (8, 1, 1)),
        (MeshConfig(data=2, fsdp=-1), (2, 4, 1)),
        (MeshConfig(data=1, fsdp=4, tensor=2), (1, 4, 2)),
        (MeshConfig(data=2, fsdp=2, tensor=-1), (2, 2, 2)),
    ],
)
def test_one_axis_may_take_all_remaining_devices(config, expected):
    assert tuple(mesh.sizes(config, 8).values()) == expected


@pytest.mark.parametrize(
    "config",
    [
        MeshConfig(data=3),
        MeshConfig(data=-1, fsdp=3),
        MeshConfig(data=4, fsdp=4),
        MeshConfig(data=-1, fsdp=-1),
        MeshConfig(data=0),
        MeshConfig(data=-1, tensor=0),
        MeshConfig(data=8, fsdp=-2),
    ],
    ids=str,
)
def test_axes_that_do_not_fill_the_devices_are_refused(config):
    with pytest.raises(InputError, match=r"config\.mesh .*-1"):
        mesh.sizes(config, 8)


def test_a_mesh_has_auto_axes_over_all_devices():
    grid = mesh.make(MeshConfig(fsdp=4))
    assert dict(grid.shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    assert set(grid.axis_types) == {jax.sharding.AxisType.Auto}
    assert grid.devices.size == 8


def test_a_mesh_may_use_some_of_the_devices():
    assert mesh.make(MeshConfig(), jax.devices()[:2]).devices.size == 2
