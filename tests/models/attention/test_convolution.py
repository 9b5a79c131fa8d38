"""Short convolutions: their formula, and that no text, no future and no cache shows in them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lm_jax.core.config import InputError
from lm_jax.models.attention.convolution import Convolution
from lm_jax.models.config import AttentionConfig, BlockConfig, FeedForwardConfig
from lm_jax.models.interface import Inputs


def test_each_feature_mixes_with_itself_in_the_tokens_before_that_are_near():
    rng = np.random.default_rng(0)
    x, recent = jnp.float32(rng.standard_normal((2, 3, 5, 4))), jnp.float32(rng.standard_normal((2, 3, 2, 4)))
    kernel, near = jnp.float32(rng.standard_normal((3, 3, 4))), jnp.asarray(rng.random((2, 5, 2)) < 0.5)
    found, after = Convolution(3, "heads").apply({"params": {"kernel": kernel}}, x, recent, near)
    wide = np.concatenate([recent, x], 2)
    for t in range(5):
        expected = np.asarray(kernel[0]) * np.asarray(x[:, :, t])
        for back in (1, 2):
            part = np.asarray(kernel[back]) * wide[:, :, 2 + t - back]
            expected = expected + np.where(np.asarray(near)[:, t, back - 1, None, None], part, 0)
        np.testing.assert_allclose(found[:, :, t], expected, atol=1e-5)
    np.testing.assert_array_equal(after, wide[:, :, -2:])


def test_as_drawn_it_changes_nothing():
    x, near = jnp.ones((1, 2, 4, 3)), jnp.ones((1, 4, 2), bool)
    module = Convolution(3, "heads")
    found, _ = module.apply(
        jax.tree.map(
            lambda box: box.unbox(),
            module.init(jax.random.key(0), x, None, near),
            is_leaf=lambda leaf: hasattr(leaf, "unbox"),
        ),
        x,
        None,
        near,
    )
    np.testing.assert_array_equal(found, x)


@pytest.fixture(scope="module")
def decoder():
    """Two layers, scanned, with a convolution of three tokens in each, and kernels far from their first draws."""
    over = {"stack.depth": 2, "stack.scan": "always", "stack.block.attention.convolution": 3}
    over["stack.block.feedforward.convolution"] = 4
    model, params = tiny.build(tiny.config("llama", over=over), Inputs(tokens=jnp.ones((1, 4), jnp.int32)))
    return jax.jit(functools.partial(model.apply, {"params": params})), model


TOKENS = jnp.asarray(np.random.default_rng(1).integers(7, 56, (2, 8)), jnp.int32)


def test_reading_in_parts_behind_padding_is_reading_at_once(decoder):
    apply, model = decoder
    whole = apply(Inputs(tokens=TOKENS)).hidden
    # The second row begins with three tokens of padding, as prompts of a batch do.
    padded = jnp.stack([TOKENS[0], jnp.roll(TOKENS[1], 3).at[:3].set(0)])
    places = jnp.stack([jnp.arange(8), jnp.maximum(jnp.arange(8) - 3, 0)])
    segments = jnp.ones((2, 8), jnp.int32).at[1, :3].set(0)
    part = lambda start, stop: Inputs(
        tokens=padded[:, start:stop], positions=places[:, start:stop], segments=segments[:, start:stop]
    )
    cache, hidden = model.empty_cache(2, 8), []
    for start, stop in ((0, 6), (6, 7), (7, 8)):
        output = apply(part(start, stop), cache=cache)
        cache, hidden = output.cache, [*hidden, output.hidden]
    found = jnp.concatenate(hidden, 1)
    np.testing.assert_allclose(found[0], whole[0], atol=2e-5)
    np.testing.assert_allclose(found[1, 3:], whole[1, :5], atol=2e-5)


def test_a_text_in_a_packed_row_is_read_as_if_alone(decoder):
    apply, _ = decoder
    alone = apply(Inputs(tokens=TOKENS[:, 5:])).hidden
    segments = jnp.asarray([[1] * 5 + [2] * 3] * 2)
    places = jnp.asarray([[0, 1, 2, 3, 4, 0, 1, 2]] * 2)
    packed = apply(Inputs(tokens=TOKENS, segments=segments, positions=places)).hidden
    np.testing.assert_allclose(packed[:, 5:], alone, atol=2e-5)


def test_the_future_does_not_change_the_past(decoder):
    apply, _ = decoder
    changed = TOKENS.at[:, 5].set(9)
    np.testing.assert_array_equal(
        apply(Inputs(tokens=TOKENS)).hidden[:, :5], apply(Inputs(tokens=changed)).hidden[:, :5]
    )


def test_an_encoder_has_no_past_to_mix_with():
    with pytest.raises(InputError, match=r"attention\.convolution is 3 under the mask 'full'"):
        AttentionConfig(mask="full", convolution=3)
    with pytest.raises(InputError, match=r"feedforward\.convolution is 3 under the mask 'full'"):
        BlockConfig(attention=AttentionConfig(mask="full"), feedforward=FeedForwardConfig(convolution=3))
