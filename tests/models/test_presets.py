"""Presets are their papers: sizes, initialisation, and what a wrong setting is answered with."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lm_jax.core.config import InputError, from_config_dict
from lm_jax.core.trees import count, named_leaves
from lm_jax.models import config as models
from lm_jax.models.config import KINDS
from lm_jax.models.interface import Inputs
from lm_jax.models.presets import PRESETS
from lm_jax.models.transformer import build

PAIR = Inputs(tokens=jnp.ones((1, 4), jnp.int32), source=Inputs(tokens=jnp.ones((1, 4), jnp.int32)))


def shapes(preset, size, vocab, **options):
    """The shapes of a preset's parameters; nothing is allocated."""
    tree = PRESETS[preset][0](size, **options)
    tree.embed.vocab = vocab
    for stack in tiny.stacks(preset):
        tree[stack].scan = "always"
    return tiny.shapes(build(from_config_dict(KINDS[tree.kind], tree)), PAIR)


@pytest.mark.parametrize(
    ("preset", "size", "vocab", "options", "millions", "tolerance"),
    [
        ("gpt2", "small", 50257, {}, 124.4, 0.01),
        ("gpt2", "xl", 50257, {}, 1557.6, 0.01),  # "1542M" in table 2; the released weights have 1,557.6M
        ("bert", "base", 30522, {}, 110, 0.01),  # section 3
        ("bert", "large", 30522, {}, 336, 0.01),  # "340M" in section 3; the released weights with heads have 336M
        ("t5", "small", 32128, {"version": "1.0"}, 60.5, 0.01),  # "60 million" in section 3.7
        ("t5", "base", 32128, {"version": "1.0"}, 222.9, 0.01),  # "220 million" in section 3.7
        ("t5", "small", 32128, {"version": "1.1"}, 77.0, 0.01),  # released_checkpoints.md
        ("llama", "7b", 32000, {}, 6738, 0.01),  # "6.7B" in table 2
        ("llama", "2-70b", 32000, {}, 68977, 0.01),
        # The released weights with the bias of their logits, to the last number.
        ("xlnet", "base", 32000, {}, 116.750336, 1e-9),
        ("xlnet", "large", 32000, {}, 360.300800, 1e-9),
        # Those of transformers' own class with the masked-LM head, counted on torch's meta device.
        ("deberta", "xsmall", 128100, {}, 70.958820, 1e-8),
        ("deberta", "small", 128100, {}, 142.024548, 1e-8),
        ("deberta", "base", 128100, {}, 184.551780, 1e-8),
        ("deberta", "large", 128100, {}, 435.191908, 1e-8),
        # Table 3 says 65M for "about 37000" shared tokens; its own sizes multiply out to 63.1M.
        ("transformer", "base", 37000, {}, 63.1, 0.01),
        ("transformer", "base", 37000, {}, 65, 0.04),
        ("transformer", "big", 37000, {}, 213, 0.02),  # table 3
    ],
)
def test_published_models_have_their_published_number_of_parameters(preset, size, vocab, options, millions, tolerance):
    assert count(shapes(preset, size, vocab, **options)) / 1e6 == pytest.approx(millions, rel=tolerance)


@functools.cache
def drawn(preset):
    """A tiny preset's parameters as it draws them, by path."""
    model = build(tiny.config(preset))
    # Keys of this kind give programs that compile in a tenth of the time.
    key = jax.random.key(0, impl="unsafe_rbg")
    params = jax.jit(lambda key: model.init(key, PAIR, method="everything"))(key)["params"]
    return {name: np.asarray(leaf) for name, leaf in named_leaves(nn.meta.unbox(params))}


def assert_stddev(preset, expected):
    for path, stddev in expected.items():
        # A matrix of n numbers: relative error 1 / sqrt(2 n), at most 1 % from 4,096 on; 6 of them.
        assert drawn(preset)[path].std() == pytest.approx(stddev, rel=0.06), path


def test_gpt2_draws_as_its_paper_says():
    layers = "stack/layers/"
    assert_stddev(
        "gpt2",
        {
            "token/embedding": 0.02,
            layers + "attention/query/kernel": 0.02,
            layers + "attention/out/kernel": 0.02 / np.sqrt(2 * 2),
            layers + "feedforward/in/kernel": 0.02,
            layers + "feedforward/out/kernel": 0.02 / np.sqrt(2 * 2),
        },
    )


def test_bert_cuts_its_bell_at_two_standard_deviations():
    # The variance of a standard normal cut at two is 0.774.
    kernels = ["token/embedding", "embed/position", "stack/layers/attention/out/kernel", "head/transform/kernel"]
    assert_stddev("bert", {path: 0.02 * np.sqrt(0.774) for path in kernels})
    assert max(abs(leaf).max() for name, leaf in drawn("bert").items() if "kernel" in name) <= 0.04


def test_t5_draws_by_fan_in_and_its_queries_smaller():
    encoder, decoder = "encoder/layers/", "decoder/layers/"
    assert_stddev(
        "t5",
        {
            "token/embedding": 1.0,
            encoder + "attention/query/kernel": (64 * 32) ** -0.5,
            encoder + "attention/key/kernel": 64**-0.5,
            encoder + "attention/out/kernel": 64**-0.5,
            decoder + "cross/query/kernel": (64 * 32) ** -0.5,
            decoder + "feedforward/in/kernel": 64**-0.5,
            decoder + "feedforward/out/kernel": 128**-0.5,
            "head/out/kernel": 64**-0.5,
        },
    )


def test_the_transformer_draws_uniformly_by_both_fans():
    assert_stddev(
        "transformer",
        {
            "token/embedding": 64**-0.5,
            "encoder/layers/attention/query/kernel": np.sqrt(2 / (64 + 64)),
            "decoder/layers/feedforward/in/kernel": np.sqrt(2 / (64 + 128)),
        },
    )
    limit = np.sqrt(6 / (64 + 128))
    assert limit * 0.99 < abs(drawn("transformer")["decoder/layers/feedforward/in/kernel"]).max() <= limit


def test_llama_draws_as_gpt2():
    assert_stddev("llama", {"stack/layers/attention/key/kernel": 0.02, "stack/layers/feedforward/out/kernel": 0.01})


def test_xlnet_draws_what_it_adds_to_queries_as_everything_else():
    names = ("content_bias", "distance_bias", "type_bias", "types", "distance/kernel")
    drawn_ones = {name: drawn("xlnet")[f"stack/layers/attention/relative/{name}"] for name in names}
    # 128 numbers and more: relative error 1 / sqrt(256), three and a half of them.
    for name, leaf in drawn_ones.items():
        assert leaf.std() == pytest.approx(0.02, rel=0.22), name


@pytest.mark.parametrize("preset", PRESETS)
def test_biases_start_at_zero_and_scales_at_one(preset):
    for name, leaf in drawn(preset).items():
        if name.endswith("bias") and "/relative/" not in name:
            assert not leaf.any(), name
        if name.endswith("scale"):
            assert (leaf == 1).all(), name


@pytest.mark.parametrize("preset", PRESETS)
def test_layers_are_drawn_apart(preset):
    first, second = drawn(preset)[f"{tiny.stacks(preset)[-1]}/layers/feedforward/in/kernel"]
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("preset", PRESETS)
def test_every_size_is_a_valid_configuration(preset):
    function, sizes = PRESETS[preset]
    for size in sizes:
        tree = function(size)
        assert from_config_dict(KINDS[tree.kind], tree).kind == tree.kind


def test_an_unknown_size_lists_the_known_ones():
    with pytest.raises(InputError, match="the size of gpt2 is 'smal', which is none of tiny, .*did you mean small"):
        PRESETS["gpt2"][0]("smal")


@pytest.mark.parametrize(
    ("over", "message"),
    [
        (
            {"stack.block.attention.heads": 3, "stack.block.attention.kv_heads": 2},
            "3 is not a positive multiple of .* 2",
        ),
        ({"dtype": "float8"}, "dtype is 'float8'; expected one of float32, bfloat16, float16"),
        ({"stack.block.feedforward.activation": "gleu"}, "which is none of .*did you mean gelu"),
        ({"stack.block.norm_placement": "mid"}, "norm_placement is 'mid'; expected one of pre, post, sandwich"),
        ({"stack.block.attention.position": "rotery"}, "position is 'rotery'; expected one of none, rotary, buckets"),
        ({"embed.positions": "cosine"}, "positions is 'cosine'; expected none, learned or sinusoidal"),
        ({"stack.block.attention.window": 0}, "attention.window is 0; expected more than 0, or None"),
        ({"stack.pattern": ("locl", "block")}, "a kind in stack.pattern is 'locl', which is none of"),
        (
            {"stack.kinds": {"near": {"attention": {"windo": 4}}}},
            "unknown key stack.kinds.near.attention.windo; did you",
        ),
        (
            {"stack.kinds": {"near": {"attention": {"window": "4"}}}},
            r"stack.kinds.near.attention.window is '4' \(str\)",
        ),
        ({"stack.kinds": {"layers": {}}}, "stack.kinds.layers: the stack has another use for this name"),
        ({"stack.share.groups": 3}, "share has 3 groups of 1 layers, but stack.depth is 2; expected a multiple of 1"),
        (
            {"stack.block.norm_placement": "parallel", "stack.block.cross": {}},
            "'parallel', which has no place for block.cr",
        ),
        ({"stack.kinds": {"wide": {"attention": {"mask": "full"}}}, "stack.pattern": ("wide",)}, "'full' in a decoder"),
        ({"init.name": "xavier"}, "init.name is 'xavier', which is none of"),
        ({"stack.block.attention.heads": 3}, "width 64 is not divisible by attention.heads 3; .* width 63 or 66"),
        ({"embed.vocab": None}, "config.model.embed.vocab is not set"),
    ],
    ids=lambda value: next(iter(value.values())) if isinstance(value, dict) else "",
)
def test_a_setting_that_cannot_work_is_refused_by_name(over, message):
    with pytest.raises(InputError, match=message):
        tiny.boxed(build(tiny.config("gpt2", over=over)), PAIR)


def test_a_decoder_must_not_see_the_future_nor_an_encoder_only_the_past():
    with pytest.raises(InputError, match="'causal' in an encoder; use 'full'"):
        tiny.config("bert", over={"stack.block.attention.mask": "causal"})
    with pytest.raises(InputError, match="'full' in a decoder; use 'causal'"):
        tiny.config("gpt2", over={"stack.block.attention.mask": "full"})


def test_a_decoder_of_an_encoder_decoder_must_see_the_encoder():
    config = tiny.config("t5")
    blind = dataclasses.replace(config.decoder.block, cross=None)
    with pytest.raises(InputError, match="decoder.block.cross is not set"):
        models.EncoderDecoderConfig(decoder=dataclasses.replace(config.decoder, block=blind))
