"""Parameters are identified by their path."""

import jax
import jax.numpy as jnp
import optax

from lm_jax.core import trees


def tree():
    return {"stack": {"layers": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros((2,), jnp.bfloat16)}}}


def test_paths_are_words_joined_with_slashes():
    assert [name for name, _ in trees.named_leaves(tree())] == ["stack/layers/bias", "stack/layers/kernel"]


def test_paths_of_optimizer_states_end_with_the_path_of_the_parameter():
    names = [name for name, _ in trees.named_leaves(optax.adam(1.0).init(tree()))]
    assert "0/mu/stack/layers/kernel" in names


def test_map_named_passes_the_path_first():
    doubled = trees.map_named(lambda path, a, b: a + b if path.endswith("kernel") else a, tree(), tree())
    assert jax.tree.structure(doubled) == jax.tree.structure(tree())


def test_patterns_are_searched_anywhere_in_the_path():
    assert trees.matches(("bias$", "norm"), "stack/layers/attention_norm/scale")
    assert not trees.matches(("bias$", "^norm"), "stack/layers/attention_norm/scale")


def test_sizes_count_numbers_and_bytes():
    assert trees.count(tree()) == 8
    assert trees.size_bytes(tree()) == 6 * 4 + 2 * 2
