"""Products, collectives and loops are read from the text of compiled programs."""

from pathlib import Path

import pytest

from lm_jax.plan import hlo, program
from lm_jax.plan.program import KINDS

COMPILED = Path(__file__).parent / "scan_v5e_16x16.hlo"
LOOP = """HloModule jit_step, is_scheduled=true

%condition (state: (s32[], f32[8,4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(LIMIT)
  %state = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) parameter(0)
  %counter = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %less = pred[]{:T(512)} compare(%counter, %limit), direction=LT
}

%body (state.1: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %one = s32[]{:T(128)} constant(STEP)
  %state.1 = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) parameter(0)
  %counter.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %copied = s32[]{:T(128)S(6)} copy(%counter.1)
  %next = s32[]{:T(128)} add(%copied, %one)
  %x = f32[8,4]{1,0:T(8,128)} get-tuple-element(%state.1), index=1
  %square = f32[4,4]{1,0:T(4,128)} convolution(%x, %x), dim_labels=fb_io->bf, metadata={op_name="jit(step)/dot_general"}
  %y = f32[8,4]{1,0:T(8,128)} convolution(%x, %square), dim_labels=bf_io->bf
  ROOT %pair = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) tuple(%next, %y)
}

ENTRY %main (x.1: f32[8,4]) -> f32[8,4] {
  %x.1 = f32[8,4]{1,0:T(8,128)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %start = s32[]{:T(128)} copy(%zero)
  %tuple = (s32[]{:T(128)}, /*index=1*/f32[8,4]{1,0:T(8,128)}) tuple(%start, %x.1)
  %while = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) while(%tuple), condition=%condition, body=%body
  ROOT %result = f32[8,4]{1,0:T(8,128)} get-tuple-element(%while), index=1
}
"""
ENTRY = """HloModule m

{}
ENTRY %main (x: bf16[16,64]) -> bf16[16,64] {{
  %x = bf16[16,64]{{1,0}} parameter(0)
{}
}}
"""


def entry(*lines, before=""):
    return ENTRY.format(before, "\n".join(f"  {line}" for line in lines))


def loop(limit=7, step=1):
    return LOOP.replace("LIMIT", str(limit)).replace("STEP", str(step))


@pytest.mark.parametrize(("limit", "step", "trips"), [(7, 1, 7), (7, 2, 4), (0, 1, 0)])
def test_products_in_a_loop_count_once_for_each_iteration(limit, step, trips):
    found = program.read(loop(limit, step))
    # x^T x and x (x^T x) of [8, 4]: 2 * 8 * 4 * 4 operations each.
    assert found.flops == trips * 2 * (2 * 8 * 4 * 4)
    assert found.unknown_loops == ()
    assert found.products[0].source == "jit(step)/dot_general"


def test_a_loop_of_unknown_length_counts_once_and_is_named():
    found = program.read(loop().replace("constant(7)", "parameter(1)"))
    assert found.unknown_loops == ("while",) and found.flops == 2 * (2 * 8 * 4 * 4)


def test_programs_for_gpus_call_cublas_and_say_how_often_they_loop():
    gemm = (
        '  %gemm = (bf16[64,256], s8[4]) custom-call(%x, %y), custom_call_target="__cublas$gemm", '
        'backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}'
    )
    body = "\n".join(
        [
            "%body (p: (s32[])) -> (s32[]) {",
            "  %x = bf16[64,32] parameter(0)",
            "  %y = bf16[32,256] parameter(1)",
            gemm,
            "}",
        ]
    )
    body += "\n\n%cond (p: (s32[])) -> pred[] {\n  %c = pred[] constant(true)\n}\n"
    line = '%w = (s32[]) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"12"}}'
    found = program.read(entry(line, before=body))
    assert found.flops == 12 * 2 * 64 * 32 * 256
    assert not found.unknown_loops


def test_a_condition_may_be_a_fusion():
    fused = """%fused (a: s32[], b: s32[]) -> pred[] {
  %a = s32[] parameter(0)
  %b = s32[] parameter(1)
  ROOT %greater = pred[] compare(%b, %a), direction=GT
}

%condition"""
    text = loop().replace("%condition", fused, 1)
    text = text.replace("compare(%counter, %limit), direction=LT", "fusion(%counter, %limit), kind=kLoop, calls=%fused")
    assert program.read(text).flops == 7 * 2 * (2 * 8 * 4 * 4)


GROUPS = "replica_groups={{0,1,2,3}}"


@pytest.mark.parametrize(
    ("line", "kind", "payload", "wire", "asynchronous"),
    [
        (f"bf16[64,64]{{1,0}} all-gather(%x), {GROUPS}, dimensions={{0}}", "all-gather", 8192, 6144, False),
        (f"bf16[16,64]{{1,0}} all-reduce(%x), {GROUPS}, to_apply=%add", "all-reduce", 2048, 3072, False),
        (f"bf16[4,64]{{1,0}} reduce-scatter(%x), {GROUPS}, to_apply=%add", "reduce-scatter", 2048, 1536, False),
        (f"bf16[16,64]{{1,0}} all-to-all(%x), {GROUPS}, dimensions={{0}}", "all-to-all", 2048, 1536, False),
        (
            "(bf16[16,64]{1,0}, bf16[16,64]{1,0}, u32[], u32[]) collective-permute-start(%x), "
            "source_target_pairs={{0,1},{1,0}}",
            *("collective-permute", 2048, 2048, True),
        ),
        (
            f"(bf16[16,64]{{1,0}}, bf16[64,64]{{1,0}}) all-gather-start(%x), {GROUPS}, dimensions={{0}}",
            *("all-gather", 8192, 6144, True),
        ),
    ],
)
def test_bytes_of_a_collective(line, kind, payload, wire, asynchronous):
    done = "bf16[1]{0} " + kind + "-done(%c)"
    found = program.read(
        entry(f"%c = {line}", f"ROOT %d = {done}" if "-start" in line else "ROOT %d = bf16[1] copy(%c)")
    )
    (collective,) = found.collectives
    assert (collective.kind, collective.count) == (kind, 1)
    assert (collective.payload_bytes, collective.wire_bytes) == (payload, wire)
    assert collective.asynchronous == asynchronous


def test_a_collective_hidden_behind_fusions_counts_once():
    gather = f"bf16[64,64]{{1,0}} all-gather(%p), {GROUPS}, channel_id=3, dimensions={{0}}"
    part = """%{} (p: bf16[16,64]) -> bf16[64,64] {{
  %p = bf16[16,64]{{1,0}} parameter(0)
  %g = {}
  ROOT %r = bf16[64,64]{{1,0}} {}
}}
"""
    before = "\n".join(
        [
            part.format("first", gather, 'custom-call(%g), custom_call_target="AsyncCollectiveStart"'),
            part.format("async_collective_fusion.1", gather, "copy(%g)"),
            part.format("last", gather, 'custom-call(%g), custom_call_target="AsyncCollectiveDone"'),
        ]
    )
    names = ("first", "async_collective_fusion.1", "last")
    lines = [f"%f{i} = bf16[64,64]{{1,0}} fusion(%x), kind=kCustom, calls=%{name}" for i, name in enumerate(names)]
    (collective,) = program.read(entry(*lines, "ROOT %y = bf16[16,64]{1,0} copy(%x)", before=before)).collectives
    assert collective.asynchronous and collective.payload_bytes == 8192


@pytest.mark.parametrize(
    "start",
    [
        'call-start(%x), async_execution_thread="sparsecore", to_apply=%core',
        'custom-call-start(), async_execution_thread="sparsecore", custom_call_target="T", called_computations={%core}',
        "async-start(%x), calls=%core",
    ],
)
def test_collectives_of_sparse_cores_are_asynchronous(start):
    core = f"""%core (p: bf16[16,64]) -> bf16[16,64] {{
  %p = bf16[16,64]{{1,0}} parameter(0)
  ROOT %r = bf16[16,64]{{1,0}} all-reduce(%p), {GROUPS}, to_apply=%add
}}, execution_thread="sparsecore"
"""
    lines = (f"%s = ((bf16[16,64]{{1,0}}), bf16[16,64]{{1,0}}) {start}", "ROOT %y = bf16[16,64]{1,0} copy(%x)")
    (collective,) = program.read(entry(*lines, before=core)).collectives
    assert collective.asynchronous and collective.wire_bytes == 3072


def test_transfers_between_slices_are_sends_to_the_host():
    send = (
        "%s = (bf16[16,64]{1,0}, u32[], token[]) send(%x, %t), channel_id=4, is_host_transfer=true, "
        'frontend_attributes={_xla_megascale_target="{1,2}x{0:15}",_xla_megascale_transfer_type="ALL_REDUCE"}'
    )
    (collective,) = program.read(entry(send, "ROOT %y = bf16[16,64]{1,0} copy(%x)")).collectives
    # Of two slices, each sends what it has summed once.
    assert collective.dcn and collective.kind == "all-reduce" and collective.wire_bytes == 2048


def test_groups_across_slices_use_dcn():
    line = "ROOT %c = bf16[16,64]{1,0} all-reduce(%x), replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add"
    assert [program.read(entry(line), size).collectives[0].dcn for size in (None, 8, 4)] == [False, False, True]


def test_the_dearest_branch_of_a_conditional_counts():
    branch = """%{} (p: bf16[16,64]) -> bf16[16,{}] {{
  %p = bf16[16,64]{{1,0}} parameter(0)
  %w = bf16[64,{}]{{1,0}} constant({{...}})
  ROOT %r = bf16[16,{}]{{1,0}} dot(%p, %w), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
}}
"""
    before = branch.format("small", *[8] * 3) + "\n" + branch.format("large", *[32] * 3)
    line = "ROOT %c = bf16[16,8] conditional(%i, %x, %x), branch_computations={%small, %large}"
    assert program.read(entry(line, before=before)).flops == 2 * 16 * 64 * 32


@pytest.mark.parametrize(
    ("notation", "group"),
    [
        ("{{0,1},{2,3}}", [0, 1]),
        ("[2,4]<=[8]", [0, 1, 2, 3]),
        ("[4,2]<=[2,4]T(1,0)", [0, 4]),
        ("mesh['data'=2,'fsdp'=4,'tensor'=1] {'fsdp'}", [0, 1, 2, 3]),
        ("mesh['data'=2,'fsdp'=4,'tensor'=1] {'data','fsdp'}", [*range(8)]),
        ("mesh['data'=2,'fsdp'=4] {'data'}", [0, 4]),
    ],
)
def test_groups_are_read_from_every_notation(notation, group):
    assert program.first_group(f"channel_id=1, replica_groups={notation}, dimensions={{0}}") == group


@pytest.mark.parametrize(
    ("shapes", "attributes", "expected"),
    [
        # Projection to heads: [4, 256, 512] x [32, 16, 512], in which 31 of 32 positions of a window are padding.
        (
            ("bf16[4,256,512,1]", "bf16[32,16,512,1]", "bf16[4,256,32,16]"),
            "window={size=1x32 pad=0_0x31_31 rhs_reversal=0x1}, dim_labels=0bf1_1oi0->0b1f",
            2 * 4 * 256 * 512 * 32 * 16,
        ),
        # Attention scores: batch axes 4 and 32 are spatial axes with holes.
        (
            ("bf16[4,32,128,64]", "bf16[4,32,256,64]", "f32[4,32,128,256]"),
            "window={size=4x32 stride=3x31 lhs_dilate=4x32}, dim_labels=01bf_01oi->01bf",
            2 * 4 * 32 * 128 * 256 * 64,
        ),
        (("f32[8,4]", "f32[4,6]", "f32[8,6]"), "dim_labels=bf_io->bf", 2 * 8 * 4 * 6),
        # A causal convolution over 10 tokens with 3 taps and one group for each of 5 features: 9 + 10 + 8 are real.
        (
            ("f32[1,10,5]", "f32[3,1,5]", "f32[1,10,5]"),
            "window={size=3 pad=2_0}, dim_labels=b0f_0io->b0f, feature_group_count=5",
            2 * 5 * (8 + 9 + 10),
        ),
    ],
)
def test_operations_of_products_written_as_convolutions(shapes, attributes, expected):
    left, right, out = shapes
    text = entry(
        f"%a = {left}{{0}} parameter(1)",
        f"%b = {right}{{0}} parameter(2)",
        f"ROOT %c = {out}{{0}} convolution(%a, %b), {attributes}",
    )
    assert program.read(text).flops == expected


def test_a_compiled_scan_of_sharded_layers():
    """Eight layers of [8192, 8192] bfloat16 on 256 chips, forward and backward, as libtpu 0.0.52 compiled them."""
    found = program.read(COMPILED.read_text())
    rows, width, layers = 128, 8192, 8
    # Forward, forward again for the backward pass, and two gradients.
    assert found.flops == 4 * layers * 2 * rows * width * width
    assert found.unknown_loops == () and found.kernels == 0
    counts = {kind: sum(each.count for each in found.collectives if each.kind == kind) for kind in KINDS}
    # Each layer is gathered twice, and its gradient leaves as an all-reduce of the whole matrix.
    assert {kind: count for kind, count in counts.items() if count} == {"all-gather": 16, "all-reduce": 8}
    assert {each.payload_bytes for each in found.collectives} == {width * width * 2}
    assert {each.group for each in found.collectives} == {256}


def test_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        program.read("hello")


def test_shapes_have_bytes():
    parsed = hlo.parse(loop()).computations["main"]
    assert parsed["while"].size_bytes == 4 + 8 * 4 * 4
    assert [hlo.bytes_of(kind) for kind in ("bf16", "s4", "pred", "f8e4m3fn", "c64")] == [2, 0.5, 1, 1, 8]


def test_an_instruction_of_a_kernel_may_continue_on_further_lines():
    call = """  %kernel = f32[8,8]{1,0} custom-call(%a), custom_call_target="tpu_custom_call", attributes={kernel={
"xprof_metadata":"{\\"block_q\\": 256}"
}}, metadata={op_name="attention"}"""
    text = f"""HloModule step

ENTRY %main (a: f32[8,8]) -> f32[8,8] {{
  %a = f32[8,8]{{1,0}} parameter(0)
{call}
  ROOT %dot = f32[8,8]{{1,0}} dot(%kernel, %a), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
}}
"""
    found = program.read(text)
    assert found.kernels == 1
    assert found.flops == 2 * 8**3
