"""What a layer keeps, in closed form."""

import dataclasses

import pytest

from lm_jax.core.config import InputError
from lm_jax.models import remat
from lm_jax.plan import layers
from lm_jax.plan.layers import KEPT, Layer

SIZES = {"width": 1024, "heads": 16, "query": 1024, "key": 1024, "mlp": 4096, "gated": False, "stream": 4}
LAYER = Layer(count=24, queries=512, keys=512, fused=True, **SIZES)
CROSS = dataclasses.replace(LAYER, source=256, cross_fused=True, stream=6)


@pytest.mark.parametrize("layer", [LAYER, CROSS], ids=["self", "cross"])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_what_keeps_more_repeats_less(layer, itemsize):
    order = ("none", "minimal", "save_attention", "save_qkv", "full")
    kept = [layers.kept_bytes(layer, name, itemsize) for name in order]
    repeated = [layers.repeated_flops(layer, name) for name in order]
    assert kept == sorted(kept, reverse=True) and repeated == sorted(repeated)
    assert kept[-1] == itemsize * 1024 and repeated[0] == 0


def test_every_choice_is_one_of_the_models_with_the_same_names():
    assert {*KEPT} == {*remat.CHOICES} - {"offload"}
    named = {name for names in KEPT.values() for name in names or ()}
    assert named <= {*remat.NAMES}
    with pytest.raises(InputError):
        remat.rematerialised(lambda x: x, "no such value")


def test_scores_without_a_fused_kernel_are_kept_for_every_pair():
    dense = dataclasses.replace(LAYER, fused=False, dropped=(False, False, True))
    more = layers.kept_bytes(dense, "none", 2) - layers.kept_bytes(LAYER, "none", 2)
    # Numerators in float32 and in 16 bits and which are dropped, the output in float32; no copy of the kernel's output.
    assert more == 16 * 512 * (4 + 2 + 1) + 4 * 1024 - 2 * 1024
    assert layers.kept_bytes(dense, "full", 2) == layers.kept_bytes(LAYER, "full", 2)


def test_a_kernel_of_tpus_pads_heads_of_64_features():
    padded = dataclasses.replace(LAYER, padded=2.0)
    more = [layers.kept_bytes(padded, name, 2) - layers.kept_bytes(LAYER, name, 2) for name in ("none", "full")]
    assert more == [2 * 4 * 1024, 0]


def test_the_tensor_axis_divides_heads_and_hidden_features_but_not_the_stream():
    whole, half = (layers.kept_bytes(LAYER, "none", 2, tensor) for tensor in (1, 2))
    stream = 2 * 4 * 1024
    assert half - stream == (whole - stream) / 2


def test_full_repeats_a_third_of_the_models_operations_less_the_last_product():
    forward = 2 * (4 * 1024**2 + 2 * 1024 * 4096) + 4 * 1024 * 512
    assert layers.repeated_flops(LAYER, "full") == forward - 2 * 1024 * 4096
