"""Short convolutions equal their formula and depend neither on other texts, nor on the future, nor on the cache."""

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


def test_the_convolution_is_its_formula():
    rng = np.random.default_rng(0)
    x, recent = jnp.float32(rng.standard_normal((2, 3, 5, 4))), jnp.float32(rng.standard_normal((2, 3, 2, 4)))
    kernel, same_text = jnp.float32(rng.standard_normal((3, 3, 4))), jnp.asarray(rng.random((2, 5, 2)) < 0.5)
    mixed, after = Convolution(3, "heads").apply({"params": {"kernel": kernel}}, x, recent, same_text)
    extended = np.concatenate([recent, x], 2)
    for t in range(5):
        expected = np.asarray(kernel[0]) * np.asarray(x[:, :, t])
        for back in (1, 2):
            earlier = np.asarray(kernel[back]) * extended[:, :, 2 + t - back]
            expected = expected + np.where(np.asarray(same_text)[:, t, back - 1, None, None], earlier, 0)
        np.testing.assert_allclose(mixed[:, :, t], expected, atol=1e-5)
    np.testing.assert_array_equal(after, extended[:, :, -2:])


def test_the_initial_convolution_is_the_identity():
    x, same_text = jnp.ones((1, 2, 4, 3)), jnp.ones((1, 4, 2), bool)
    module = Convolution(3, "heads")
    (mixed, _), _ = module.init_with_output(jax.random.key(0), x, None, same_text)
    np.testing.assert_array_equal(mixed, x)


@pytest.fixture(scope="module")
def decoder():
    """Two scanned layers with convolutions, whose kernels are far from the identity."""
    over = {"stack.depth": 2, "stack.scan": "always", "stack.block.attention.convolution": 3}
    over["stack.block.feedforward.convolution"] = 4
    model, params = tiny.build(tiny.config("llama", over=over), Inputs(tokens=jnp.ones((1, 4), jnp.int32)))
    return jax.jit(functools.partial(model.apply, {"params": params})), model


TOKENS = jnp.asarray(np.random.default_rng(1).integers(7, 56, (2, 8)), jnp.int32)


def test_calls_with_a_cache_and_left_padding_compute_what_one_call_does(decoder):
    apply, model = decoder
    expected = apply(Inputs(tokens=TOKENS)).hidden
    # The second row begins with three tokens of padding, like a shorter prompt of a batch.
    padded = jnp.stack([TOKENS[0], jnp.roll(TOKENS[1], 3).at[:3].set(0)])
    positions = jnp.stack([jnp.arange(8), jnp.maximum(jnp.arange(8) - 3, 0)])
    segments = jnp.ones((2, 8), jnp.int32).at[1, :3].set(0)
    inputs = lambda start, stop: Inputs(
        tokens=padded[:, start:stop], positions=positions[:, start:stop], segments=segments[:, start:stop]
    )
    cache, hidden = model.empty_cache(2, 8), []
    for start, stop in ((0, 6), (6, 7), (7, 8)):
        output = apply(inputs(start, stop), cache=cache)
        cache, hidden = output.cache, [*hidden, output.hidden]
    states = jnp.concatenate(hidden, 1)
    np.testing.assert_allclose(states[0], expected[0], atol=2e-5)
    np.testing.assert_allclose(states[1, 3:], expected[1, :5], atol=2e-5)


def test_a_packed_text_has_the_states_that_it_has_alone(decoder):
    apply, _ = decoder
    alone = apply(Inputs(tokens=TOKENS[:, 5:])).hidden
    segments = jnp.asarray([[1] * 5 + [2] * 3] * 2)
    positions = jnp.asarray([[0, 1, 2, 3, 4, 0, 1, 2]] * 2)
    packed = apply(Inputs(tokens=TOKENS, segments=segments, positions=positions)).hidden
    np.testing.assert_allclose(packed[:, 5:], alone, atol=2e-5)


def test_the_future_does_not_change_the_past(decoder):
    apply, _ = decoder
    changed = TOKENS.at[:, 5].set(9)
    np.testing.assert_array_equal(
        apply(Inputs(tokens=TOKENS)).hidden[:, :5], apply(Inputs(tokens=changed)).hidden[:, :5]
    )


def test_a_convolution_in_an_encoder_is_refused():
    with pytest.raises(InputError, match=r"attention\.convolution is 3 under the mask 'full'"):
        AttentionConfig(mask="full", convolution=3)
    with pytest.raises(InputError, match=r"feedforward\.convolution is 3 under the mask 'full'"):
        BlockConfig(attention=AttentionConfig(mask="full"), feedforward=FeedForwardConfig(convolution=3))
