"""Rules convert Hugging Face tensors to our parameters, and back unchanged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.interop import rules
from lm_jax.models.config import AttentionConfig, FeedForwardConfig

HEADS, GROUPS, WIDTH, EMBED = 4, 2, 3, 5
GROUPED = AttentionConfig(heads=HEADS, kv_heads=GROUPS, head_dim=WIDTH)
MULTI_HEAD = AttentionConfig(heads=HEADS, head_dim=WIDTH)


def numbers(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


CASES = {
    "transposed": ([rules.transposed("a", "b")], [numbers(6, EMBED)]),
    "heads": (rules.heads("a", "b", HEADS, bias=True), [numbers(HEADS * WIDTH, EMBED), numbers(HEADS * WIDTH)]),
    "out": (rules.out("a", "b", HEADS, bias=False), [numbers(EMBED, HEADS * WIDTH)]),
    "conv_out": (rules.out("a", "b", HEADS, bias=False, transpose=False), [numbers(HEADS * WIDTH, EMBED)]),
    "parts": (rules.fused("a", "b", GROUPED, "parts"), [numbers(8 * WIDTH, EMBED), numbers(8 * WIDTH)]),
    "conv_parts": (
        rules.fused("a", "b", MULTI_HEAD, "parts", transpose=False),
        [numbers(EMBED, 12 * WIDTH), numbers(12 * WIDTH)],
    ),
    "by_heads": (rules.fused("a", "b", MULTI_HEAD, "heads"), [numbers(12 * WIDTH, EMBED), numbers(12 * WIDTH)]),
    "groups": (rules.fused("a", "b", GROUPED, "groups"), [numbers(8 * WIDTH, EMBED), numbers(8 * WIDTH)]),
    "gate": (rules.gate_and_in("a", "b", bias=True), [numbers(8, EMBED), numbers(8)]),
    "row": ([rules.row("a", "b")], [numbers(1, 7)]),
}


@pytest.mark.parametrize("name", CASES)
def test_saving_inverts_loading(name):
    case_rules, arrays = CASES[name]
    for rule, array in zip(case_rules, arrays, strict=True):
        loaded = rule.load(array)
        assert len(loaded) == len(rule.ours)
        (saved,) = rule.save(*loaded)
        np.testing.assert_array_equal(saved, array)


@pytest.mark.parametrize("name", CASES)
def test_rules_convert_jax_arrays_as_numpy_arrays(name):
    case_rules, arrays = CASES[name]
    for rule, array in zip(case_rules, arrays, strict=True):
        loaded = rule.load(array)
        (saved,) = jax.jit(rule.save)(*map(jnp.asarray, loaded))
        np.testing.assert_array_equal(saved, array)


def test_two_names_of_attention_are_a_fused_matrix_and_the_output():
    short = rules.attention("a", "b.", ("qkv", "o"), MULTI_HEAD, order="heads")
    explicit = rules.fused("a", "b.qkv", MULTI_HEAD, "heads") + rules.out("a/out", "b.o", HEADS, bias=True)
    assert [(rule.ours, rule.theirs) for rule in short] == [(rule.ours, rule.theirs) for rule in explicit]
    array = numbers(12 * WIDTH, EMBED)
    for left, right in zip(short[0].load(array), explicit[0].load(array), strict=True):
        np.testing.assert_array_equal(left, right)


def test_two_names_of_a_gated_layer_are_a_fused_gate_and_in_and_the_output():
    gated = rules.feedforward("a", "b.", ("both", "o"), FeedForwardConfig(gated=True))
    assert [rule.theirs for rule in gated] == [("b.both.weight",), ("b.both.bias",), ("b.o.weight",), ("b.o.bias",)]
    assert gated[0].ours == ("a/gate/kernel", "a/in/kernel")


def test_gpt2_stores_all_queries_before_all_keys():
    kernel, bias = rules.fused("a", "b", MULTI_HEAD, "parts", transpose=False)
    array = numbers(EMBED, 3, HEADS, WIDTH)
    query, key, value = kernel.load(array.reshape(EMBED, -1))
    for index, projection in enumerate((query, key, value)):
        np.testing.assert_array_equal(projection, array[:, index])
    assert bias.load(numbers(3 * HEADS * WIDTH))[1][2, 1] == HEADS * WIDTH + 2 * WIDTH + 1


def test_neox_stores_a_heads_query_key_and_value_together():
    kernel, _ = rules.fused("a", "b", MULTI_HEAD, "heads")
    array = numbers(HEADS, 3, WIDTH, EMBED)
    for index, projection in enumerate(kernel.load(array.reshape(-1, EMBED))):
        # [head, kv, embed] there, [embed, head, kv] here.
        np.testing.assert_array_equal(projection, array[:, index].transpose(2, 0, 1))


def test_falcon_stores_the_queries_of_a_group_with_its_key_and_value():
    kernel, _ = rules.fused("a", "b", GROUPED, "groups")
    array = numbers(GROUPS, HEADS // GROUPS + 2, WIDTH, EMBED)
    query, key, value = kernel.load(array.reshape(-1, EMBED))
    np.testing.assert_array_equal(query[:, 3], array[1, 1].T)
    np.testing.assert_array_equal(key[:, 1], array[1, 2].T)
    np.testing.assert_array_equal(value[:, 0], array[0, 3].T)


def test_one_key_for_all_heads_is_the_same_in_groups_and_in_parts():
    one = AttentionConfig(heads=HEADS, kv_heads=1, head_dim=WIDTH)
    array = numbers(6 * WIDTH, EMBED)
    loaded = [rules.fused("a", "b", one, order)[0].load(array) for order in ("groups", "parts")]
    for left, right in zip(*loaded, strict=True):
        np.testing.assert_array_equal(left, right)


def test_the_first_half_of_a_fused_matrix_is_the_gate():
    (kernel,) = rules.gate_and_in("a", "b", bias=False)
    assert kernel.ours == ("a/gate/kernel", "a/in/kernel")
    gate, other = kernel.load(numbers(4, EMBED))
    assert gate[0, 0] == 0 and other[0, 0] == 2 * EMBED
