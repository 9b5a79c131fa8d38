"""A plan as text, picture, file and differences."""

import json

import pytest

from lm_jax.core.config import InputError
from lm_jax.plan import report
from lm_jax.plan.costs import PLAN_VERSION
from lm_jax.plan.program import KINDS

GIB = 2**30
PLAN = {
    "plan_version": PLAN_VERSION,
    "recipe": "llama:7b",
    "topology": "v5e:16x16",
    "slices": 2,
    "devices": 512,
    "device_kind": "TPU v5 lite",
    **{"mesh_data": 2, "mesh_fsdp": 256, "mesh_tensor": 1, "rows": 1024, "length": 2048, "accumulate": 1},
    **{"compiler": "libtpu", "compiler_version": "2"},
    **{"dtype": "bfloat16", "vocabulary": 32000, "jax": "1", "tracing_s": 3.0, "compiling_s": 4.0},
    **{"fits": True, "needed_bytes": 6 * GIB, "limit_bytes": 16 * GIB, "headroom_bytes": 10 * GIB},
    **{"parameters_bytes": GIB, "optimizer_bytes": 2 * GIB, "batch_bytes": 1000, "other_state_bytes": 8},
    **{"argument_bytes": 3 * GIB, "output_bytes": 3 * GIB, "alias_bytes": 3 * GIB, "temporary_bytes": 2 * GIB},
    **{"code_bytes": GIB, "host_bytes": 0, "model_flops": 3e14, "dot_flops": 4e14, "flops_ratio": 4 / 3},
    **{"kernels": 0, "unknown_loops": 0, "wire_bytes": 2e9, "synchronous_bytes": 1e9, "dcn_bytes": 5e8},
    **{f"{kind.replace('-', '_')}_count": 0 for kind in KINDS},
    **{"all_reduce_count": 64, "all_reduce_payload_bytes": 1e9, "all_reduce_wire_bytes": 2e9},
    **{"all_reduce_synchronous_bytes": 1e9, "compute_s": 2.0, "hbm_s": 0.01, "ici_s": 0.3, "dcn_s": None},
    **{"lower_bound_s": 2.0, "bound_by": "compute"},
}
CHANGE = {
    "change_1": "a=1",
    "change_1_price": "nothing",
    "change_1_saves_bytes": GIB,
    "change_2": None,
    "change_3": None,
}
NAMES = ("argument", "output", "alias", "temporary", "code", "host")
LARGE = PLAN | CHANGE | {"fits": False, "needed_bytes": 20 * GIB, "headroom_bytes": -4 * GIB, "dot_flops": None}
LARGE |= {f"{name}_bytes": None for name in NAMES}


def test_the_table_of_a_plan_that_fits():
    text = report.table(PLAN)
    assert "fits: needs 6.00 GiB of 16.00 GiB a device, 10.00 GiB to spare" in text
    assert "2 x v5e:16x16: 512 devices, data 2 x fsdp 256 x tensor 1" in text
    assert "400 TFLOP a device and step; the model requires 300 TFLOP: ratio 1.333" in text
    assert "all-gather" not in text and "DCN unknown" in text and "warning" not in text
    assert "at least 2 s, for products" in text and "lower bound, not a forecast" in text


def test_the_table_of_a_plan_that_does_not_fit():
    text = report.table(LARGE)
    assert "does not fit: needs 20.00 GiB of 16.00 GiB a device, 4.00 GiB too much" in text
    assert "a=1: about 1.00 GiB less (nothing)" in text and "estimates" in text


def test_what_is_not_counted_is_said():
    text = report.table(PLAN | {"unknown_loops": 2, "kernels": 64})
    assert "2 loops of unknown length" in text and "64 handwritten kernels are not counted" in text


@pytest.mark.parametrize("plan", [PLAN, LARGE])
def test_the_picture_is_a_png(plan, tmp_path):
    report.chart(plan, tmp_path / "memory.part")
    assert (tmp_path / "memory.part").read_bytes().startswith(b"\x89PNG")


def test_differences_have_ratios_and_leave_out_the_compilers_times():
    lines = report.differences(PLAN, PLAN | {"wire_bytes": 1e9, "compiling_s": 9.0, "dtype": "float32", "dcn_s": 0.5})
    assert [line.split()[0] for line in lines] == ["dtype", "wire_bytes", "dcn_s"]
    assert "(0.500 times)" in lines[1] and "unknown -> 0.5" in lines[2]


def test_a_plan_is_read_from_its_file_or_directory(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))
    assert report.load(str(tmp_path)) == report.load(str(tmp_path / "plan.json")) == PLAN


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", '{"plan_version": 99}', None])
def test_a_file_that_is_no_plan_is_refused(text, tmp_path):
    file = tmp_path / "other.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match="is no plan|version 99; expected 2"):
        report.load(str(file))
