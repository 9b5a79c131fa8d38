"""Learned tokens: a soft prompt is as good as tokens before the text, a prefix as good as a cache of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lm_jax.core.config import InputError
from lm_jax.core.trees import flatten, unflatten
from lm_jax.decode.generate import generate
from lm_jax.decode.sampling import GREEDY
from lm_jax.models import prompts
from lm_jax.models.interface import Inputs
from lm_jax.models.model import Bound, build_model

# Learned, rotary and ALiBi positions; an encoder with token types; relative positions in an encoder-decoder.
PRESETS = ("bert", "t5", *(pytest.param(preset, marks=pytest.mark.slow) for preset in ("gpt2", "llama", "bloom")))
NUMBER, LENGTH = 3, 6


def case(preset):
    """A model of two layers, its parameters, and ids [2 9] of which the first three stand for the learned tokens."""
    config = tiny.config(preset, over=tiny.everywhere(preset, depth=2))
    model = build_model(config, config.embed.vocab)
    tokens = np.random.default_rng(0).integers(7, 56, (1, NUMBER + LENGTH))
    other = np.random.default_rng(1).integers(7, 56, (1, LENGTH))
    rows = np.concatenate([tokens, np.concatenate([tokens[:, :NUMBER], other], 1)])
    return model.module, tiny.random_params(model.shapes), jnp.asarray(rows)


def inputs(module, tokens, **fields):
    """The batch; an encoder reads the tokens of an encoder-decoder."""
    tokens = Inputs(tokens=tokens, **fields)
    if module.config.kind != "encoder_decoder":
        return tokens
    return Inputs(tokens=jnp.array([[5, 7, 9], [6, 8, 10]]), source=tokens)


def prompted(params, ids):
    return {**params, prompts.PROMPT: {"embedding": params["token"]["embedding"][ids]}}


def prefixed(module, params, ids):
    """The parameters with the keys and values of `ids` as the prefix of every layer."""
    cache = Bound(module, params).empty_cache(1, NUMBER)
    layers = tiny.run_once(
        lambda cache: Bound(module, params)(Inputs(tokens=ids[None]), cache=cache).cache.layers, cache
    )
    leaves = flatten(params)
    for name in ("key", "value"):
        stacked = jnp.stack([layer["self"][name] for layer in layers])
        leaves[f"stack/layers/attention/prefix/{name}"] = stacked.transpose(0, 2, 1, 3)
    return unflatten(leaves)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_soft_prompt_of_the_rows_of_tokens_is_as_good_as_these_tokens(preset):
    module, params, rows = case(preset)
    hidden = lambda params, tokens, **fields: Bound(module, params)(inputs(module, tokens, **fields)).hidden
    learned = prompted(params, rows[0, :NUMBER])
    expected = tiny.run_once(lambda: hidden(params, rows))
    expected = expected if preset == "t5" else expected[:, NUMBER:]
    got = tiny.run_once(lambda: hidden(learned, rows[:, NUMBER:]))
    np.testing.assert_allclose(got, expected, atol=2e-5)
    if preset != "t5":
        read = tiny.run_once(lambda: hidden(learned, rows[:, NUMBER:], read=jnp.array([[4, 0], [1, 5]])))
        np.testing.assert_allclose(read, jnp.stack([expected[0, [4, 0]], expected[1, [1, 5]]]), atol=2e-5)


@pytest.mark.parametrize(
    "preset", ["llama", *(pytest.param(preset, marks=pytest.mark.slow) for preset in ("gpt2", "bloom"))]
)
def test_a_prefix_of_cached_keys_and_values_is_as_good_as_the_cached_tokens(preset):
    module, params, rows = case(preset)
    hidden = lambda params, tokens: tiny.run_once(
        lambda params: Bound(module, params)(Inputs(tokens=tokens)).hidden, params
    )
    got = hidden(prefixed(module, params, rows[0, :NUMBER]), rows[:, NUMBER:])
    np.testing.assert_allclose(got, hidden(params, rows)[:, NUMBER:], atol=2e-5)


@pytest.mark.parametrize("learn", [prompted, pytest.param(prefixed, marks=pytest.mark.slow)])
def test_every_text_of_a_packed_row_has_the_learned_tokens_before_it(learn):
    module, params, rows = case("llama")
    args = (params,) if learn is prompted else (module, params)
    bound = Bound(module, learn(*args, rows[0, :NUMBER]))
    texts = rows[:, NUMBER:]
    packed = Inputs(
        tokens=texts.reshape(1, -1),
        positions=jnp.tile(jnp.arange(LENGTH), 2)[None],
        segments=jnp.repeat(jnp.array([1, 2]), LENGTH)[None],
    )
    alone, together = tiny.run_once(lambda: (bound(Inputs(tokens=texts)).hidden, bound(packed).hidden))
    np.testing.assert_allclose(together.reshape(alone.shape), alone, atol=2e-5)


def test_a_text_of_a_packed_row_does_not_read_another_through_a_soft_prompt():
    module, params, rows = case("bert")
    bound = Bound(module, prompted(params, rows[0, :NUMBER]))
    segments = jnp.repeat(jnp.array([1, 2]), LENGTH)[None]
    hidden = jax.jit(lambda tokens: bound(Inputs(tokens=tokens.reshape(1, -1), segments=segments)).hidden)
    texts = rows[:, NUMBER:]
    np.testing.assert_array_equal(hidden(texts)[0, LENGTH:], hidden(texts.at[0].add(1))[0, LENGTH:])


@pytest.mark.parametrize(
    ("preset", "scan"),
    [("gpt2", "never"), *(pytest.param(preset, "always", marks=pytest.mark.slow) for preset in ("t5", "llama"))],
)
def test_generated_text_goes_on_after_the_learned_tokens(preset, scan):
    over = tiny.everywhere(preset, depth=2) | {f"{name}.scan": scan for name in tiny.stacks(preset)}
    config = tiny.config(preset, over=over)
    model = build_model(config, config.embed.vocab)
    params, rows = tiny.random_params(model.shapes), case(preset)[2]
    # A shorter one is padded.
    whole, texts = [rows[0], rows[1, :-2]], [rows[0, NUMBER:], rows[1, NUMBER:-2]]
    settings = {"max_tokens": 5, "sampling": GREEDY, "seed": 0, "pad": 0, "eos": None, "bos": 2}
    run = lambda params, sources: generate(model.module, params, [np.asarray(row) for row in sources], **settings)
    expected = [each.tokens.tolist() for each in run(params, whole)]
    learned = [prompted(params, rows[0, :NUMBER])]
    if preset != "t5" and scan == "never":
        learned.append(prefixed(model.module, params, rows[0, :NUMBER]))
    for each in learned:
        assert [result.tokens.tolist() for result in run(each, texts)] == expected


def test_texts_that_leave_no_positions_are_refused():
    module, params, rows = case("gpt2")
    most = module.config.embed.max_length
    bound = Bound(module, prompted(params, rows[0, :NUMBER]))
    with pytest.raises(
        InputError, match=f"3 learned tokens and a text of {most} make {most + 3}, but .* set config.da"
    ):
        bound(Inputs(tokens=jnp.zeros((1, most), jnp.int32)))
    with pytest.raises(InputError, match=f"max_length leaves room for {most - 3}"):
        generate(
            module, bound.params, [np.full(most - 5, 7)], max_tokens=3, sampling=GREEDY, seed=0, pad=0, eos=None, bos=2
        )
