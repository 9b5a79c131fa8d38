"""A mesh uses all devices, or the error says how to."""

import types

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


def _slices(platform, kind):
    """Two slices of 2 x 2 devices, listed as jax may list them: not in the order of the slices."""
    return [
        types.SimpleNamespace(
            platform=platform, device_kind=kind, slice_index=index, id=4 * index + 2 * y + x, coords=(x, y, 0),
            core_on_chip=0, process_index=index,
        )
        for index in (1, 0) for y in (0, 1) for x in (0, 1)
    ]  # fmt: skip


def test_the_data_axis_spans_tpu_slices():
    arranged = mesh.across_slices({"data": 4, "fsdp": 2, "tensor": 1}, _slices("tpu", "TPU v5 lite"))
    assert arranged.shape == (4, 2, 1)
    assert [{device.slice_index for device in row.flat} for row in arranged] == [{0}, {0}, {1}, {1}]
    assert sorted(device.id for device in arranged.flat) == [*range(8)]


def test_other_axes_do_not_span_tpu_slices():
    with pytest.raises(InputError, match=r"data is 1, .* 2 TPU slices .* config\.mesh\.data=2"):
        mesh.across_slices({"data": 1, "fsdp": 8, "tensor": 1}, _slices("tpu", "TPU v5 lite"))


def test_any_axis_spans_hosts_with_gpus_and_the_last_axis_stays_on_one():
    arranged = mesh.across_slices({"data": 1, "fsdp": 4, "tensor": 2}, _slices("gpu", "NVIDIA H100 80GB HBM3"))
    assert [device.id for device in arranged.flat] == [*range(8)]
    assert all(len({device.slice_index for device in pair.flat}) == 1 for pair in arranged[0])
