"""A stack gives the same numbers however its layers are looped over, and whatever is computed again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lm_jax.core.config import InputError
from lm_jax.models import stack, transformer
from lm_jax.models.config import StackConfig
from lm_jax.models.interface import Inputs

TOKENS = jnp.arange(1, 13).reshape(2, 6)
INPUTS = {
    "t5": Inputs(tokens=TOKENS, source=Inputs(tokens=TOKENS[:, :4] + 20, segments=jnp.array([[1] * 4, [1, 1, 1, 0]]))),
    "bert": Inputs(tokens=TOKENS),
}
OPTIONS = {"t5": {"version": "1.0"}, "bert": {}}


def trained(preset, params=None, **settings):
    """Hidden states, and gradients of all parameters, with dropout acting."""
    inputs = INPUTS[preset]
    config = tiny.config(preset, over=tiny.everywhere(preset, **settings), **OPTIONS[preset])
    model = transformer.build(config)
    if params is None:
        _, params = tiny.build(config, inputs)

    # Draws of this kind compile in a tenth of the time.
    key = jax.random.key(0, impl="unsafe_rbg")

    def total(params):
        hidden = model.apply({"params": params}, inputs, train=True, rngs={"dropout": key}).hidden
        return (hidden * jnp.cos(jnp.arange(hidden.size).reshape(hidden.shape))).sum(), hidden

    slopes, hidden = jax.jit(jax.grad(total, has_aux=True))(params)
    return params, hidden, slopes


@pytest.fixture(scope="module")
def reference():
    """What unrolled stacks give, by preset."""
    return {preset: trained(preset, scan="never", remat="none") for preset in INPUTS}


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        ("bert", {"scan": "always", "remat": "full"}),
        ("t5", {"scan": "always", "remat": "dots"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value.values()),
)
def test_loops_and_recomputation_change_neither_values_nor_gradients(reference, preset, settings):
    params, hidden, slopes = reference[preset]
    _, found, found_slopes = trained(preset, params, **settings)
    # The same sums in another order: float32 noise on values of size 3, on gradients relative to their size.
    np.testing.assert_allclose(found, hidden, atol=1e-5)
    for (path, slope), other in zip(
        jax.tree_util.tree_leaves_with_path(slopes), jax.tree.leaves(found_slopes), strict=True
    ):
        size = float(jnp.abs(slope).max())
        np.testing.assert_allclose(other, slope, atol=2e-5 * max(size, 1), err_msg=jax.tree_util.keystr(path))


def test_every_parameter_has_a_gradient(reference):
    for _, _, slopes in reference.values():
        silent = [
            jax.tree_util.keystr(path)
            for path, slope in jax.tree_util.tree_leaves_with_path(slopes)
            if not jnp.abs(slope).max() > 0
        ]
        # Hidden states read no head; a bias of all keys shifts all scores of a query alike.
        assert {path for path in silent if "head" not in path and "pair" not in path} <= {
            "['stack']['layers']['attention']['key']['bias']"
        }


def test_parameters_of_all_layers_have_a_leading_axis_named_layers():
    kernel = tiny.boxed(transformer.build(tiny.config("bert")), INPUTS["bert"])["stack"]["layers"]["attention"][
        "query"
    ]["kernel"]
    assert kernel.names == ("layers", "embed", "heads", "kv")
    assert kernel.value.shape == (2, 64, 2, 32)


def test_unstacked_layers_are_the_slices():
    tree = {"kernel": jnp.arange(6.0).reshape(3, 2)}
    parts = stack.unstack(tree, 3)
    np.testing.assert_array_equal(np.stack([part["kernel"] for part in parts]), tree["kernel"])


def test_auto_loops_over_deep_stacks():
    assert stack.scanned(StackConfig(depth=24))
    assert not stack.scanned(StackConfig(depth=2))


@pytest.mark.parametrize(("field", "value"), [("scan", "sometimes"), ("remat", "some"), ("depth", 0)])
def test_an_unknown_setting_is_refused(field, value):
    with pytest.raises(InputError, match=rf"stack\.{field} is '?{value}"):
        config = tiny.config("bert", over={f"stack.{field}": value})
        tiny.boxed(transformer.build(config), INPUTS["bert"])
