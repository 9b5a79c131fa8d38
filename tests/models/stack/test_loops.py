"""Inside the loops: a transform of each layer's parameters, and intermediate outputs of each layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lm_jax.core.config import InputError
from lm_jax.models import transformer
from lm_jax.models.interface import Inputs

TOKENS = jnp.arange(1, 13).reshape(2, 6)
MASK = jnp.array([[1] * 6, [1, 1, 1, 1, 0, 0]])
SOURCE = Inputs(tokens=TOKENS[:, :4] + 20, segments=MASK[:, 2:])
SMALL = {"embed.width": 16, "stack.block.attention.heads": 2, "stack.block.feedforward.width": 16}
CASES = {
    "cross": ("t5", {"embed.width": 16} | tiny.everywhere("t5", block__feedforward__width=16)),
    "kinds, shared": (
        "gpt2",
        SMALL
        | {"stack.kinds": {"wide": {"feedforward": {"width": 24}}}, "stack.pattern": ("wide", "block")}
        | {"stack.depth": 4, "stack.share.groups": 1, "stack.share.layers": 2},
    ),
}


def add_pairs(tree, draw):
    """Adds a low-rank pair, `down` and `up`, to every query kernel [layers embed heads kv]."""
    if "query" not in tree:
        return {name: add_pairs(branch, draw) if isinstance(branch, dict) else branch for name, branch in tree.items()}
    layers, embed, *heads = tree["query"]["kernel"].shape
    return {**tree, "query": tree["query"] | {"down": draw(layers, embed, 2), "up": draw(layers, 2, *heads)}}


def merge_pairs(tree):
    """Replaces every kernel of a layer by its sum with its low-rank pair."""
    if "down" in tree:
        rest = {name: leaf for name, leaf in tree.items() if name not in ("down", "up")}
        return rest | {"kernel": tree["kernel"] + jnp.tensordot(tree["down"], tree["up"], 1)}
    return {name: merge_pairs(branch) if isinstance(branch, dict) else branch for name, branch in tree.items()}


@pytest.fixture(scope="module", params=CASES)
def outcome(request):
    """Outputs of a scanned and an unrolled model with low-rank pairs, and of a model with merged kernels."""
    preset, over = CASES[request.param]
    inputs = Inputs(tokens=TOKENS, source=SOURCE if preset == "t5" else None)
    configs = [tiny.config(preset, over=over | tiny.everywhere(preset, scan=scan)) for scan in ("always", "never")]
    model, params = tiny.build(configs[0], inputs)
    generator = np.random.default_rng(1)
    draw = lambda *shape: jnp.float32(0.3 * generator.standard_normal(shape))
    stacks = {stack: add_pairs(params[stack], draw) for stack in tiny.stacks(preset)}
    # Parameters that all layers share have no axis of layers.
    merge = lambda name, tree: tree if name == "relative" else jax.vmap(merge_pairs)(tree)

    def run(stacks):
        apply = lambda model, stacks, **options: model.apply({"params": params | stacks}, inputs, **options)
        folded = {stack: {name: merge(name, tree) for name, tree in parts.items()} for stack, parts in stacks.items()}
        show = ("hidden", "attention", "router")
        models = (model, transformer.build_transformer(configs[1]))
        return *(apply(each, stacks, transform=merge_pairs, show=show) for each in models), apply(model, folded)

    return model.config, tiny.run_once(run, stacks)


def test_low_rank_pairs_added_inside_the_loop_are_merged_kernels(outcome):
    _, (scanned, unrolled, expected) = outcome
    np.testing.assert_allclose(scanned.hidden, expected.hidden, atol=1e-5)
    np.testing.assert_allclose(unrolled.hidden, expected.hidden, atol=1e-5)


def test_low_rank_pairs_of_every_layer_learn():
    over = SMALL | {"stack.depth": 2, "stack.scan": "always"}
    model, params = tiny.build(tiny.config("gpt2", over=over), Inputs(tokens=TOKENS))
    stack = add_pairs(params["stack"], lambda *shape: jnp.full(shape, 0.1))

    def total(stack):
        output = model.apply({"params": params | {"stack": stack}}, Inputs(tokens=TOKENS), transform=merge_pairs)
        return jnp.sin(output.hidden).sum()

    gradients = tiny.run_once(jax.grad(total), stack)["layers"]["attention"]["query"]
    for name in ("kernel", "down", "up"):
        assert (np.abs(gradients[name]).reshape(2, -1).max(1) > 0).all()


def test_scanned_and_unrolled_stacks_have_the_same_intermediate_outputs(outcome):
    _, (scanned, unrolled, plain) = outcome
    assert plain.shown is None
    assert len(jax.tree.leaves(scanned.shown)) >= 9
    for leaf, other in zip(jax.tree.leaves(scanned.shown), jax.tree.leaves(unrolled.shown), strict=True):
        np.testing.assert_allclose(leaf, other, atol=1e-5)


def test_attention_of_every_layer_of_both_sides_is_returned(outcome):
    config, (output, *_) = outcome
    decoder, encoder = output.shown, output.shown.encoder
    depth = (config.stack if encoder is None else config.decoder).depth
    assert len(decoder.hidden) == len(decoder.attention) + 1 == depth + 1
    assert decoder.router == ()
    # The future is masked out.
    assert not any(np.triu(weights, 1).any() for weights in decoder.attention)
    shown = [*decoder.attention, *decoder.cross]
    if encoder is not None:
        assert len(encoder.hidden) == len(decoder.cross) + 1 == len(encoder.attention) + 1 == depth + 1
        # Padding in the source is masked out.
        maps = [*(weights[1, :, :2] for weights in encoder.attention), *(weights[1] for weights in decoder.cross)]
        assert not any(np.asarray(weights)[..., 2:].any() for weights in maps)
        shown += encoder.attention
    for weights in shown:
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)


def test_an_unknown_intermediate_output_is_refused():
    model = transformer.build_transformer(tiny.config("gpt2", over=SMALL | {"stack.depth": 1}))
    shapes = tiny.shapes(model, Inputs(tokens=TOKENS))
    with pytest.raises(InputError, match="show is 'attentions'; .*did you mean attention"):
        show = lambda params: model.apply({"params": params}, Inputs(tokens=TOKENS), show=("attentions",))
        jax.eval_shape(show, shapes)
