"""Targets do not see their own tokens; calls with a past or a cache equal one call; scans equal unrolled layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lm_jax.core.config import InputError
from lm_jax.models import transformer
from lm_jax.models.attention import masks
from lm_jax.models.config import AttentionConfig
from lm_jax.models.interface import Inputs

LENGTH = 6
# Distinct tokens: each position has its own row of the token table.
TOKENS = jnp.arange(1, 1 + 2 * LENGTH).reshape(2, LENGTH)
ORDER = np.array([[3, 0, 5, 1, 4, 2], [2, 5, 0, 3, 1, 4]])
# A token attends to those before it in the order.
UNSEEN = jnp.asarray(ORDER[:, None, :] >= ORDER[:, :, None])
TARGETS = jnp.array([[4, 2, 0], [1, 3, 5]])
INPUTS = Inputs(tokens=TOKENS, types=(TOKENS % 5 > 2).astype(jnp.int32), unseen=UNSEEN, targets=TARGETS)
SMALL = {"embed.width": 16, "stack.block.attention.heads": 2, "stack.block.feedforward.width": 32}
ONE_WAY = {"kind": "decoder", "stack.block.attention.mask": "causal", "memory.length": None, "memory.reuse": None}


def build(**over):
    """A small XLNet and its parameters."""
    over = {name.replace("__", "."): value for name, value in over.items()}
    return tiny.build(tiny.config("xlnet", over={**SMALL, **over}), Inputs(tokens=TOKENS))


def hidden(model, params, tokens, **inputs):
    return jax.jit(lambda params: model.apply({"params": params}, Inputs(tokens=tokens, **inputs)).hidden)(params)


def dependence(model, params, inputs):
    """Whether each output row depends on the token at each position."""

    def rows(table):
        changed = {**params, "token": {"embedding": table}}
        return jnp.sin(model.apply({"params": changed}, inputs).hidden).sum(-1)

    gradients = jax.jit(jax.jacrev(rows))(params["token"]["embedding"])
    strength = np.asarray(jnp.abs(gradients).sum(-1))
    return np.stack([strength[row][:, np.asarray(TOKENS)[row]] > 0 for row in range(2)])


def test_a_target_sees_what_comes_before_it_and_never_itself():
    model, params = build()
    rows = np.take_along_axis(ORDER, np.asarray(TARGETS), 1)
    np.testing.assert_array_equal(dependence(model, params, INPUTS), ORDER[:, None, :] < rows[:, :, None])


def test_a_token_sees_itself_and_what_comes_before_it():
    model, params = build()
    tokens = INPUTS.replace(targets=None)
    np.testing.assert_array_equal(dependence(model, params, tokens), ORDER[:, None, :] <= ORDER[:, :, None])


def test_ranks_are_the_mask_of_their_factorisation_order():
    # The second row has four tokens of one rank, which attend to each other and not to the tokens after them.
    ranks = np.array([[3, 1, 6, 2, 5, 4], [0, 2, 0, 1, 0, 0]])
    query, key = ranks[:, :, None], ranks[:, None, :]
    unseen = np.where((ranks == 0)[:, :, None], key > query, key >= query)
    targets = jnp.array([[4, 2, -1], [1, 3, -1]])
    model, params = build()
    blocks, _ = build(stack__block__attention__kernel="blockwise", stack__block__attention__block=4)
    past = jax.tree.map(lambda leaf: leaf + 0.3, model.empty_past(2, 3))

    @jax.jit
    def states(params):
        by_rank, by_pair = {"ranks": jnp.asarray(ranks)}, {"unseen": jnp.asarray(unseen)}
        call = lambda model, given, cache=None: (
            model.apply({"params": params}, Inputs(tokens=TOKENS, targets=targets, **given), cache=cache).hidden
        )
        alone = call(model, by_pair), call(model, by_rank), call(blocks, by_rank)
        return *alone, call(model, by_pair, past), call(model, by_rank, past)

    expected, dense, blockwise, expected_after_past, after_past = states(params)
    np.testing.assert_allclose(dense, expected, atol=1e-6)
    np.testing.assert_allclose(blockwise, expected, atol=1e-5)
    np.testing.assert_allclose(after_past, expected_after_past, atol=1e-6)
    assert jnp.abs(after_past - expected).max() > 0.01


def test_future_tokens_do_not_change_the_past_of_a_one_way_model():
    model, params = build(**ONE_WAY)
    expected = np.broadcast_to(np.tril(np.ones((LENGTH, LENGTH), bool)), (2, LENGTH, LENGTH))
    np.testing.assert_array_equal(dependence(model, params, Inputs(tokens=TOKENS)), expected)


def test_targets_do_not_depend_on_each_other_or_on_unused_ones():
    model, params = build()
    states = jax.jit(lambda targets: model.apply({"params": params}, INPUTS.replace(targets=targets)).hidden)
    together, absent = states(TARGETS), states(TARGETS.at[:, 1].set(-1))
    np.testing.assert_allclose(absent[:, ::2], together[:, ::2], atol=1e-6)
    # The position of an unused target does not matter.
    np.testing.assert_allclose(states(TARGETS.at[:, 1].set(~TARGETS[:, 1])), absent, atol=1e-6)
    np.testing.assert_allclose(states(TARGETS[:, 1:2]), together[:, 1:2], atol=1e-5)


def test_scanned_layers_are_unrolled_ones_with_targets_and_a_past():
    def run(scan, params=None, **settings):
        model, random_params = build(stack__scan=scan, **settings)
        params = random_params if params is None else params
        empty, wave = model.empty_past(2, 3), jnp.sin(jnp.arange(96.0)).reshape(2, 3, 16)

        def total(params):
            past = jax.tree.map(lambda leaf: leaf + wave.reshape((1,) * (leaf.ndim - 3) + wave.shape), empty)
            output = model.apply({"params": params}, INPUTS, cache=past)
            return jnp.sin(output.hidden).sum(), (output.hidden, jax.tree.leaves(output.cache))

        return params, *jax.jit(jax.value_and_grad(total, has_aux=True))(params)

    params, (_, (hidden, caches)), expected = run("never")
    _, (_, (scanned, scanned_caches)), gradients = run("always", params, stack__remat="full")
    np.testing.assert_allclose(scanned, hidden, atol=1e-5)
    np.testing.assert_allclose(scanned_caches[0], jnp.stack(caches), atol=1e-5)
    for leaf, other in zip(jax.tree.leaves(expected), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(other, leaf, atol=1e-4)


def test_a_text_in_two_calls_with_a_past_is_the_text_in_one():
    model, params = build(**ONE_WAY)

    def both(params):
        first = model.apply({"params": params}, Inputs(tokens=TOKENS[:, :4]), cache=model.empty_past(2))
        second = model.apply({"params": params}, Inputs(tokens=TOKENS[:, 4:]), cache=first.cache)
        return first, second, model.apply({"params": params}, Inputs(tokens=TOKENS)).hidden

    first, second, expected = jax.jit(both)(params)
    np.testing.assert_allclose(jnp.concatenate([first.hidden, second.hidden], 1), expected, atol=1e-5)
    assert second.cache.length == LENGTH


def test_padding_on_the_left_of_a_text_does_not_change_it():
    model, params = build(**ONE_WAY)
    expected = hidden(model, params, TOKENS)
    padded, segments = jnp.pad(TOKENS, ((0, 0), (2, 0))), jnp.pad(jnp.ones_like(TOKENS), ((0, 0), (2, 0)))
    states = hidden(model, params, padded, segments=segments)[:, 2:]
    np.testing.assert_allclose(states, expected, atol=1e-5)


def test_cached_decoding_is_the_whole_forward_pass():
    model, params = build(**ONE_WAY)
    expected = hidden(model, params, TOKENS)
    step = jax.jit(lambda tokens, cache: model.apply({"params": params}, Inputs(tokens=tokens), cache=cache))
    cache, parts = model.empty_cache(2, LENGTH + 2), []
    for start, stop in ((0, 3), (3, 4), (4, 5), (5, 6)):
        output = step(TOKENS[:, start:stop], cache)
        cache, parts = output.cache, [*parts, output.hidden]
    np.testing.assert_allclose(jnp.concatenate(parts, 1), expected, atol=1e-5)


def test_with_same_length_every_query_attends_to_as_many_keys():
    config = AttentionConfig(mask="causal", same_length=True)
    positions = masks.TokenPositions(jnp.arange(5)[:, None]), masks.TokenPositions(jnp.arange(-3, 5)[None])
    allow = masks.of_config(config, 3).allow
    assert allow is not None
    assert np.asarray(allow(*positions)).sum(-1).tolist() == [4] * 5


def test_invalid_combinations_are_refused():
    bert, params = tiny.build(tiny.config("bert"), Inputs(tokens=TOKENS))
    with pytest.raises(InputError, match="set config.model.two_stream=True"):
        bert.apply({"params": params}, INPUTS)
    with pytest.raises(InputError, match="a Past needs .*position='transformer_xl'.*found 'none' and 'post'"):
        bert.apply({"params": params}, Inputs(tokens=TOKENS), cache=bert.empty_past(2))
    with pytest.raises(InputError, match="config.model.two_stream needs .*found 'none'"):
        tiny.config("xlnet", over={"stack.block.attention.position": "none"})
    with pytest.raises(InputError, match="same_length is set under the mask 'full'"):
        tiny.config("xlnet", over={"stack.block.attention.same_length": True})
    with pytest.raises(InputError, match="transformer_xl.clamp is 0"):
        tiny.config("xlnet", over={"stack.block.attention.transformer_xl.clamp": 0})
    with pytest.raises(InputError, match="memory.length is 0"):
        tiny.config("xlnet", over={"memory.length": 0})
    model, params = build(**ONE_WAY)
    with pytest.raises(InputError, match="a cache was given, which stores keys and values only"):
        model.apply({"params": params}, INPUTS, cache=model.empty_cache(2, LENGTH))
    with pytest.raises(InputError, match="inputs.ranks.* need all tokens in one call"):
        model.apply({"params": params}, Inputs(tokens=TOKENS, ranks=TOKENS), cache=model.empty_cache(2, LENGTH))


def test_initialisation_without_targets_creates_the_query_stream():
    config = tiny.config("xlnet")
    shapes = tiny.shapes(transformer.build_transformer(config), Inputs(tokens=TOKENS))
    assert shapes["query_stream"]["start"].shape == (config.embed.width,)
