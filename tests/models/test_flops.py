"""Weights count at each use, and keys only within the window."""

import pytest
import tiny

from lm_jax.models import transformer
from lm_jax.models.flops import training_flops
from lm_jax.models.model import from_module

# Width 64 and 2 heads of 32: weights of attention and feed-forward, operations per pair of tokens, readout weights.
ATTENTION, FEEDFORWARD, PAIR, READOUT, LENGTH = 4 * 64 * 64, 8 * 64 * 64, 12 * 64, 64 * 64, 100


def flops(preset="gpt2", length=LENGTH, **over):
    config = tiny.config(preset, over={f"stack.{key.replace('__', '.')}": value for key, value in over.items()})
    model = from_module(transformer.build_transformer(config))
    shapes, axes = model.shapes, model.axes
    return training_flops(config, shapes, axes, length=length, read=length)


def total(layers, *, weights=ATTENTION + FEEDFORWARD, keys):
    """6 operations per weight and token, PAIR per pair of tokens."""
    return 6 * LENGTH * (layers * weights + READOUT) + PAIR * LENGTH * sum(keys)


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ({"depth": 3}, total(3, keys=[100] * 3)),
        ({"depth": 3, "block__attention__window": 10}, total(3, keys=[10] * 3)),
        ({"depth": 3, "block__attention__window": 1000}, total(3, keys=[100] * 3)),
        ({"depth": 2, "block__attention__window": 10, "block__attention__stride": 20}, total(2, keys=[15] * 2)),
        (
            {"depth": 3, "kinds": {"near": {"attention": {"window": 10}}}, "pattern": ("near", "block")},
            total(3, keys=[10, 100, 10]),
        ),
        ({"depth": 6, "share__groups": 2}, total(6, keys=[100] * 6)),
        (
            {"depth": 3, "block__attention__kv_heads": 1},
            total(3, weights=ATTENTION - 2 * 64 * 32 + FEEDFORWARD, keys=[100] * 3),
        ),
    ],
    ids=["full", "window", "wide window", "strided", "pattern", "shared", "one key head"],
)
def test_operations_are_those_counted_by_hand(over, expected):
    assert flops(**over) == expected
