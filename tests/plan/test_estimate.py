"""Closed forms of a step's memory and traffic."""

import dataclasses
import math

import pytest

from lm_jax.core.chips import TPUS
from lm_jax.plan import estimate, ranking
from lm_jax.plan.estimate import Array, Read, Split, Step, splits
from lm_jax.plan.layers import Layer
from lm_jax.plan.ranking import Device

GIB = 2**30
OPEN = {"data": -1, "fsdp": -1, "tensor": -1}
WIDTH, DEPTH, VOCABULARY = 1024, 24, 30592


def step(depth=DEPTH, rows=128, length=512, fused=True):
    """BERT-large, with AdamW."""
    layer = Layer(
        count=depth, width=WIDTH, heads=16, query=WIDTH, key=WIDTH, mlp=4 * WIDTH, gated=False, stream=4,
        queries=length, keys=length, fused=fused,
    )  # fmt: skip
    fsdp, tensor = ("fsdp",), ("tensor",)
    stacked = (
        *[Array((depth, WIDTH, 16, 64), 4, ((), fsdp, tensor, ()))] * 4,
        *[Array((depth, WIDTH, 4 * WIDTH), 4, ((), fsdp, tensor))] * 2,
    )
    parameters = (*stacked, Array((VOCABULARY, WIDTH), 4, (tensor, fsdp)), Array((depth, WIDTH), 4, ((), ())))
    return Step(
        layers=(layer,),
        parameters=parameters,
        optimizer=parameters * 2,
        other=(Array((rows, length), 4, (("data", "fsdp"), ())),),
        trained=parameters,
        stacked=stacked,
        reads=(Read(scored=length // 7, vocabulary=VOCABULARY, width=WIDTH),),
        rows=rows,
        itemsize=2,
        flops=6.0 * rows * length * sum(math.prod(array.shape) for array in stacked),
    )


def needs(split, **sizes):
    return estimate.estimate(step(**sizes), split)


def test_parts_add_up_to_what_a_device_needs():
    each = needs(Split(1, 16, 1, "none"))
    arguments = each.parameters_bytes + each.optimizer_bytes + each.other_bytes
    most = each.activation_bytes + max(each.working_bytes, each.logit_bytes)
    assert each.needed_bytes == arguments + each.gradient_bytes + each.cast_bytes + most
    assert each.temporary_bytes == each.needed_bytes - arguments


def test_state_is_divided_by_fsdp_and_tensor_only():
    for axes in ((16, 1, 1), (1, 16, 1), (1, 4, 4)):
        each = estimate.estimate(step(), Split(*axes, "none"), tiled=False)
        norms = 4 * DEPTH * WIDTH
        numbers = sum(math.prod(array.shape) for array in step().parameters) * 4 - norms
        assert each.parameters_bytes == norms + numbers // (axes[1] * axes[2])
        assert each.optimizer_bytes == 2 * each.parameters_bytes


def test_heads_of_64_features_take_whole_lanes_of_a_tpu():
    # No dimension of the shard [24, 64, 16, 64] has 128 numbers, so half of every tile is padding.
    array, axes = step().stacked[0], {"data": 1, "fsdp": 16, "tensor": 1}
    assert array.size_bytes(axes, tiled=True) == 2 * array.size_bytes(axes)
    assert array.size_bytes({**axes, "fsdp": 1}, tiled=True) == array.size_bytes({**axes, "fsdp": 1})


@pytest.mark.parametrize("remat", ["none", "full"])
def test_micro_batches_divide_activations_and_double_gradients(remat):
    one, four = needs(Split(1, 16, 1, remat)), needs(Split(1, 16, 1, remat, accumulate=4))
    assert four.activation_bytes == one.activation_bytes / 4
    assert four.gradient_bytes == 2 * one.gradient_bytes
    assert four.wire_bytes["gathers"] == 4 * one.wire_bytes["gathers"]


def test_only_fsdp_gathers_and_only_tensor_sums_activations():
    data, fsdp, tensor = (needs(Split(*axes, "none")).wire_bytes for axes in ((16, 1, 1), (1, 16, 1), (4, 1, 4)))
    assert data["gathers"] == 0 == data["tensor"] and data["gradients"] > 1.9 * fsdp["gradients"]
    assert fsdp["gathers"] > 0 == fsdp["tensor"] and tensor["tensor"] > 0


def test_splits_divide_rows_and_arrays():
    found = splits(step(rows=8), 16, OPEN, ("none",), (1, 2))
    assert all(8 % (each.data * each.fsdp * each.accumulate) == 0 and each.devices == 16 for each in found)
    assert not splits(step(), 17, OPEN, ("none",), (1,))
    assert {each.tensor for each in splits(step(), 16, {**OPEN, "tensor": 4}, ("none",), (1,))} == {4}
    assert all(each.data % 4 == 0 for each in splits(step(), 16, OPEN, ("none",), (1,), slices=4))


def ranked(sizes=None, chip="v5e", limit_bytes=None, remats=("none", "full")):
    sizes, figures = sizes or step(), TPUS[chip]
    device = Device(limit_bytes=limit_bytes or figures.usable_bytes, chip=figures)
    return ranking.rank(sizes, splits(sizes, 16, OPEN, remats, (1, 2)), device), device


def test_what_fits_comes_first_and_the_smallest_of_the_rest_next():
    estimates, device = ranked()
    fits = [device.fits(each) for each in estimates]
    assert fits == sorted(fits, reverse=True) and 0 < sum(fits) < len(fits)
    rest = [each.needed_bytes for each in estimates if not device.fits(each)]
    assert rest == sorted(rest)


def test_with_enough_memory_replicas_send_the_least_and_repeat_nothing():
    estimates, device = ranked(chip="v5p")
    assert estimates[0].split == Split(16, 1, 1, "none")
    text = ranking.why(estimates[0], estimates, device, 128)
    assert "data 16 x fsdp 1 x tensor 1, remat none; 8 rows on a device" in text and "sends the least" in text


def test_memory_decides_where_it_is_short():
    estimates, device = ranked(limit_bytes=4 * GIB)
    best = estimates[0]
    assert best.split.fsdp * best.split.tensor > 1 and best.split.remat == "full"
    assert "memory decided" in ranking.why(best, estimates, device, 128)
    estimates, device = ranked(limit_bytes=GIB // 4)
    assert "none of" in ranking.why(estimates[0], estimates, device, 128)


def test_a_little_less_traffic_is_not_worth_a_third_more_operations():
    most = needs(Split(1, 16, 1, "none"), rows=512).needed_bytes
    estimates, device = ranked(step(rows=512), limit_bytes=round(most / ranking.FILLED) + 1)
    assert estimates[0].split.remat == "none" and estimates[0].split.fsdp > 1
    full = next(each for each in estimates if each.split == Split(16, 1, 1, "full"))
    assert device.fits(full) and full.sent_bytes < estimates[0].sent_bytes


def test_unknown_memory_holds_state_up_to_a_size():
    small, large = step(depth=2, rows=16), step()
    for sizes, data in ((small, 16), (large, 1)):
        found = splits(sizes, 16, OPEN, ("none",), (1,))
        best = ranking.rank(sizes, found, Device())[0]
        assert (best.split.data == 16) == (data == 16) and best.split.tensor == 1


def test_leaders_have_different_meshes():
    estimates, _ = ranked()
    leaders = ranking.leaders(estimates)
    assert len({tuple(each.split.axes.values()) for each in leaders}) == 3 and leaders[0] is estimates[0]
    same = [each for each in estimates if each.split.axes == estimates[0].split.axes]
    assert ranking.leaders(same) == same[:3]


def test_flags_choose_a_split():
    words = ranking.flags(Split(2, 8, 1, "full", 2), ["config.model.stack"])
    assert words[0] == "--config.mesh.data=2" and words[3:] == [
        "--config.model.stack.remat=full",
        "--config.train.accumulate=2",
    ]
    assert dataclasses.replace(Split(2, 8, 1)).devices == 16
