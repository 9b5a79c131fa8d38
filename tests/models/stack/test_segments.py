"""A stack is split into as few segments as its pattern needs, and every layer is in exactly one."""

import pytest

from lm_jax.core.config import Tree
from lm_jax.models.config import ShareConfig, StackConfig
from lm_jax.models.stack.segments import layers, parameter_groups, segments

LOCAL = Tree(local=Tree(attention=Tree(window=4)), first=Tree(attention_norm=False))


def stack(depth, *pattern, groups=0, inner=1):
    return StackConfig(
        depth=depth, kinds=LOCAL, pattern=pattern, share=ShareConfig(groups=groups, layers=inner), scan="always"
    )


L, G = "local", "block"
STACKS = {
    "uniform": (stack(24), [(24, (G,))]),
    "GPT-3: dense and banded in turn": (stack(96, G, L), [(48, (G, L))]),
    "Gemma 3: 26 layers, five local to one global": (stack(26, L, L, L, L, L, G), [(4, (L, L, L, L, L, G)), (2, (L,))]),
    "ModernBERT: 22 layers, one global to two local": (stack(22, G, L, L), [(7, (G, L, L)), (1, (G,))]),
    "ModernBERT with another first layer": (stack(22, "first", *(L, L, G) * 7), [(1, ("first",)), (7, (L, L, G))]),
    "Qwen 2: one switch": (stack(28, *[G] * 21, *[L] * 7), [(21, (G,)), (7, (L,))]),
    "no repeated pattern": (stack(3, G, L, L), [(1, (G,)), (2, (L,))]),
    "ALBERT: one set of parameters": (stack(12, groups=1), [(12, (G,))]),
    "three groups": (stack(12, groups=3), [(4, (G,))] * 3),
    "groups that do not divide the layers": (stack(5, groups=2), [(3, (G,)), (2, (G,))]),
    "two layers in a group": (stack(8, L, G, groups=2, inner=2), [(2, (L, G))] * 2),
}


@pytest.mark.parametrize(("config", "expected"), STACKS.values(), ids=STACKS)
def test_repeated_patterns_become_segments(config, expected):
    assert [(segment.repeat, segment.kinds) for segment in segments(config)] == expected


@pytest.mark.parametrize(("config", "expected"), STACKS.values(), ids=STACKS)
def test_segments_unrolled_are_the_layers(config, expected):
    unrolled = []
    for segment in segments(config):
        assert segment.start == len(unrolled)
        for repetition in range(segment.repeat):
            offset = 0 if segment.shared else repetition * len(segment.kinds)
            unrolled += [(kind, owner + offset) for kind, owner in zip(segment.kinds, segment.owners, strict=True)]
    assert unrolled == [(layer.kind, layer.owner) for layer in layers(config)]


def test_albert_assigns_layer_i_to_group_i_times_groups_over_layers():
    # ALBERT's released code: int(i / (layers / groups)).
    for depth, groups in ((12, 1), (12, 4), (12, 5), (24, 3), (7, 3)):
        owners = [layer.owner for layer in layers(stack(depth, groups=groups))]
        assert owners == [int(layer / (depth / groups)) for layer in range(depth)]


def test_inner_layers_of_a_group_alternate():
    assert [layer.owner for layer in layers(stack(8, groups=2, inner=2))] == [0, 1, 0, 1, 2, 3, 2, 3]


def test_kinds_with_other_parameters_are_stored_separately_in_order():
    config = stack(7, "first", L, G, L, L, G, L)
    assert parameter_groups(config, ()) == {"": (0, 1, 2, 3, 4, 5, 6)}
    assert parameter_groups(config, ("first",)) == {"first": (0,), "": (1, 2, 3, 4, 5, 6)}
