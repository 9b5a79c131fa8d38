"""Estimates of what makes a step fit."""

import dataclasses

import pytest

from lm_jax.plan import changes
from lm_jax.plan.changes import Step

GIB = 2**30
# BERT-large on 16 chips with 128 rows of 512 tokens on each.
STEP = Step(
    layers=((24, 1024, 16, 512, "none"),),
    rows=32,
    itemsize=2,
    accumulate=1,
    state_bytes=4 * GIB,
    moments_bytes=2 * GIB,
    gradient_bytes=GIB,
    data=16,
    slices=1,
    needed_bytes=35 * GIB,
    limit_bytes=16 * GIB,
)


def test_activations_are_those_of_the_paper():
    layer = 32 * 512 * 1024 * (34 + 5 * 16 * 512 / 1024)
    assert changes.activations(STEP) == 24 * layer
    assert changes.activations(STEP, "full") == 24 * 2 * 32 * 512 * 1024 + layer


def test_what_suffices_comes_before_what_is_cheaper():
    found = changes.cheapest(STEP)
    enough = [each.saves_bytes >= 19 * GIB for each in found]
    assert enough == sorted(enough, reverse=True) and enough[0]


def test_state_of_replicas_can_be_sharded_within_slices():
    shards = lambda step: [each for each in changes.cheapest(step, 99) if "config.mesh.fsdp=-1" in each.change]
    assert shards(STEP)[0].change == "config.mesh.data=1 config.mesh.fsdp=-1"
    assert shards(STEP)[0].saves_bytes == 4 * GIB * 15 // 16
    assert shards(dataclasses.replace(STEP, slices=2))[0].change.startswith("config.mesh.data=2")
    sharded = dataclasses.replace(STEP, data=1)
    assert not [each for each in changes.cheapest(sharded, 99) if each.change.startswith("config.mesh")]


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_only_changes_that_change_something_are_named(remat):
    step = dataclasses.replace(STEP, layers=((24, 1024, 16, 512, remat),), rows=1, moments_bytes=0)
    names = " ".join(each.change for each in changes.cheapest(step, 99))
    assert "accumulate" not in names and "batch" not in names and "bfloat16" not in names
    assert ("remat=dots" in names, "remat=full" in names) == (remat == "none", remat != "full")


def test_moments_can_be_narrower():
    saved = {each.change: each.saves_bytes for each in changes.cheapest(STEP, 99) if "moments" in each.change}
    assert saved == {"config.optimizer.moments=bfloat16": GIB, "config.optimizer.moments=int8": 3 * GIB // 2}


def test_estimates_never_exceed_what_there_is():
    small = dataclasses.replace(STEP, needed_bytes=17 * GIB)
    assert all(each.saves_bytes <= 13 * GIB for each in changes.cheapest(small, 99))
