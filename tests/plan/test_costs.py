"""Figures of a plan follow from shardings, from the compiler's statistics and from the program."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lm_jax.core.chips import TPUS
from lm_jax.parallel import mesh
from lm_jax.plan import costs
from lm_jax.plan.compiling import Compiled
from lm_jax.plan.costs import Work

TEXT = """HloModule m

ENTRY %main (x: f32[64,64]) -> f32[64,64] {
  %x = f32[64,64]{1,0} parameter(0)
  %y = f32[64,64]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %z = f32[64,64]{1,0} all-reduce(%y), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %w = f32[64,64]{1,0} all-reduce(%z), replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add
}
"""
NAMES = ("argument", "output", "alias", "temp", "generated_code")


def statistics(**sizes):
    fields = {f"{name}_size_in_bytes": sizes.get(name, 0) for name in NAMES}
    fields |= {f"host_{name}_size_in_bytes": 0 for name in NAMES}
    return types.SimpleNamespace(**fields)


def sharded(shape, *spec, devices=8):
    layout = mesh.make(mesh.MeshConfig(data=1, fsdp=-1), jax.devices()[:devices])
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(layout, PartitionSpec(*spec)))


def work(slices=2):
    return Work(
        parameters={"w": sharded((64, 64), "fsdp")},
        optimizer=(sharded((64, 64), "fsdp"), sharded((64, 64), "fsdp")),
        batch={"tokens": sharded((16, 4), "fsdp")},
        other=(sharded(()), None),
        model_flops=8 * 2 * 64**3 / 4,
        devices=8,
        slices=slices,
    )


def compiled(**fields):
    memory = statistics(argument=1000, output=900, alias=800, temp=5000, generated_code=10)
    defaults = {"text": TEXT, "memory": memory, "needed_bytes": 6110, "limit_bytes": None}
    return Compiled(**{**defaults, "tracing_s": 1.0, "compiling_s": 2.0, **fields})


def test_bytes_are_those_of_a_shard():
    plan = costs.figures(work(), compiled(), TPUS["v5e"])
    assert (plan["parameters_bytes"], plan["optimizer_bytes"]) == (64 * 64 * 4 // 8, 2 * 64 * 64 * 4 // 8)
    assert (plan["batch_bytes"], plan["other_state_bytes"]) == (16 * 4 * 4 // 8, 4)
    assert plan["headroom_bytes"] == round(15.75 * 2**30) - 6110


def test_operations_and_collectives_of_a_device():
    plan = costs.figures(work(), compiled(), TPUS["v5e"])
    assert plan["dot_flops"] == 2 * 64**3 and plan["flops_ratio"] == 4
    # Within a slice of 4: twice 3/4 of the array; between two slices: twice half of it.
    array = 64 * 64 * 4
    assert plan["all_reduce_count"] == 2 and plan["all_reduce_payload_bytes"] == 2 * array
    assert plan["wire_bytes"] == plan["synchronous_bytes"] == 2.5 * array and plan["dcn_bytes"] == array


def test_the_lower_bound_is_the_longest_part():
    chip = TPUS["v5e"]
    plan = costs.figures(work(), compiled(), chip)
    seconds = [2 * 64**3 / chip.flops, 1900 / chip.hbm, 1.5 * 64 * 64 * 4 / chip.ici, 64 * 64 * 4 / chip.dcn]
    np.testing.assert_allclose([plan[f"{part}_s"] for part in ("compute", "hbm", "ici", "dcn")], seconds, rtol=1e-12)
    assert plan["lower_bound_s"] == max(seconds) and plan["bound_by"] == "dcn"


def test_a_network_without_a_published_speed_has_no_time():
    assert costs.figures(work(), compiled(), TPUS["v4"])["dcn_s"] is None


def test_a_step_that_does_not_fit_has_the_same_keys():
    small = compiled(text="", memory=None, needed_bytes=20 * 2**30, limit_bytes=16 * 2**30)
    plan = costs.figures(work(), small, TPUS["v5e"])
    assert plan.keys() == costs.figures(work(), compiled(), TPUS["v5e"]).keys()
    assert not plan["fits"] and plan["headroom_bytes"] == -4 * 2**30
    assert plan["wire_bytes"] is plan["dot_flops"] is plan["lower_bound_s"] is None


@pytest.mark.parametrize("family", TPUS)
def test_figures_of_chips_are_plausible(family):
    chip = TPUS[family]
    # More than 100 operations for each byte of HBM, and links that are slower than HBM.
    assert chip.flops / chip.hbm > 100 and chip.ici < chip.hbm and chip.dcn < chip.ici
