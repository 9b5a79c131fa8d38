"""Presets match their papers: sizes, initialisation, and errors for wrong settings."""

import dataclasses
import functools
import json
from pathlib import Path

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
from lm_jax.models.presets.counts import PARAMETERS
from lm_jax.models.transformer import build_transformer

PAIR = Inputs(tokens=jnp.ones((1, 4), jnp.int32), source=Inputs(tokens=jnp.ones((1, 4), jnp.int32)))

# Parameters of transformers' classes in the released sizes, counted on torch's meta device.
REFERENCE = json.loads((Path(__file__).parents[1] / "golden" / "presets.json").read_text())


def shapes(preset, size, vocab):
    """Return the shapes of a preset's parameters; nothing is allocated."""
    tree = PRESETS[preset].build(size)
    tree.embed.vocab = vocab
    for stack in tiny.stacks(preset):
        tree[stack].scan = "always"
    return tiny.shapes(build_transformer(from_config_dict(KINDS[tree.kind], tree)), PAIR)


# The largest of each family; the slow tests count the others.
LARGEST = {(preset, max(sizes, key=lambda size: sizes[size])) for preset, sizes in PARAMETERS.items()}


@pytest.mark.parametrize(
    ("preset", "size"),
    [
        pytest.param(preset, size, marks=[] if (preset, size) in LARGEST else pytest.mark.slow)
        for preset, sizes in PARAMETERS.items()
        for size in sizes
    ],
)
def test_listed_parameter_counts_are_the_sums_of_the_shapes(preset, size):
    assert count(shapes(preset, size, PRESETS[preset].vocabulary(size))) == PARAMETERS[preset][size]


def test_parameter_counts_are_listed_for_every_size_except_tiny():
    assert {preset: list(sizes) for preset, sizes in PARAMETERS.items()} == {
        name: [size for size in preset.sizes if size != "tiny"] for name, preset in PRESETS.items()
    }


# Parameters of transformers' classes minus ours, by size.
DIFFERENCES = {
    # transformers 5 ties the readout of every T5, even if it was released untied.
    **{
        family: {size: -PRESETS[family].vocab * shape["width"] for size, shape in PRESETS[family].sizes.items()}
        for family in ("t5", "mt5", "umt5")
    },
    # Our encoders have a readout; with factorised embeddings, one of its matrices maps the width to the factor.
    "electra": {"small": -256 * 128},
    # transformers' sinusoids are parameters; its bias of the logits is not.
    "marian": {"base": 2 * 512 * 512 - 58101},
    "pegasus": {"base": 2 * 512 * 768, "large": 2 * 1024 * 1024},
}


@pytest.mark.parametrize("preset", REFERENCE)
def test_models_have_as_many_parameters_as_those_of_transformers(preset):
    extra = DIFFERENCES.get(preset, {})
    ours = {size: PARAMETERS[preset][size] + extra.get(size, 0) for size in REFERENCE[preset]["parameters"]}
    assert ours == REFERENCE[preset]["parameters"]


@pytest.mark.parametrize(
    ("preset", "size", "millions", "tolerance"),
    [
        ("gpt2", "xl", 1557.6, 0.01),  # "1542M" in table 2; the released weights have 1,557.6M
        ("bert", "base", 110, 0.01),  # section 3
        ("bert", "large", 336, 0.01),  # "340M" in section 3; the released weights with heads have 336M
        ("t5_v1_0", "small", 60.5, 0.01),  # "60 million" in section 3.7
        ("t5_v1_0", "base", 222.9, 0.01),  # "220 million" in section 3.7
        ("t5", "small", 77.0, 0.01),  # released_checkpoints.md
        ("t5_decoder", "4.8b", 4762.357760, 1e-9),  # the comment of t5x's decoder_only/models/xxl.gin
        ("llama", "7b", 6738, 0.01),  # "6.7B" in table 2
        ("llama", "2-70b", 68977, 0.01),
        # The exact count of the released weights with the bias of the logits.
        ("xlnet", "base", 116.750336, 1e-9),
        ("xlnet", "large", 360.300800, 1e-9),
        # transformers' class with the masked-LM head, counted on torch's meta device.
        ("deberta", "xsmall", 70.958820, 1e-8),
        ("deberta", "small", 142.024548, 1e-8),
        ("deberta", "base", 184.551780, 1e-8),
        ("deberta", "large", 435.191908, 1e-8),
        # Table 3 says 65M for "about 37000" shared tokens; its sizes give 63.1M.
        ("transformer", "base", 63.1, 0.01),
        ("transformer", "base", 65, 0.04),
        ("transformer", "big", 213, 0.02),  # table 3
        # PaLM's table 1.
        ("palm", "8b", 8630, 0.001),
        ("palm", "62b", 62500, 0.001),
        ("palm", "540b", 540350, 0.001),
        # Gopher's table 1, matched only with Transformer-XL's projection of relative positions in each layer.
        # Chinchilla's count is its name's: the paper gives only the shape (table 4).
        ("gopher", "44m", 44, 0.01),
        ("gopher", "117m", 117, 0.01),
        ("gopher", "417m", 417, 0.01),
        ("gopher", "1.4b", 1400, 0.02),  # 1,374M; the table prints two digits
        ("gopher", "7.1b", 7100, 0.01),
        ("gopher", "280b", 280000, 0.01),
        ("chinchilla", "70b", 70000, 0.01),
        # GPT-3's table 2.1. Three of its numbers differ by more than a percent from the counts of its shapes: 355.9M,
        # 1,315.7M, 2,651.6M. 1.3B has 16 heads, not the printed 24: see the preset.
        ("gpt3", "125m", 125, 0.01),
        ("gpt3", "350m", 350, 0.02),
        ("gpt3", "350m", 355.9, 0.001),
        ("gpt3", "760m", 760, 0.01),
        ("gpt3", "1.3b", 1300, 0.02),
        ("gpt3", "1.3b", 1315.7, 0.001),
        ("gpt3", "2.7b", 2700, 0.02),
        ("gpt3", "2.7b", 2651.6, 0.001),
        ("gpt3", "6.7b", 6700, 0.01),
        ("gpt3", "13b", 13000, 0.01),
        ("gpt3", "175b", 175000, 0.01),
    ],
)
def test_published_models_have_their_published_number_of_parameters(preset, size, millions, tolerance):
    assert PARAMETERS[preset][size] / 1e6 == pytest.approx(millions, rel=tolerance)


def test_the_printed_heads_of_gpt3_1_3b_would_give_1_5b_parameters():
    more_heads = 4 * 2048 * (24 - 16) * 128 * 24  # Projections, width, heads, head width, layers; without biases.
    assert (PARAMETERS["gpt3"]["1.3b"] + more_heads) / 1e9 == pytest.approx(1.517, abs=0.001)


@functools.cache
def initial_params(preset):
    """Return the initial parameters of a tiny preset by path."""
    model = build_transformer(tiny.config(preset))
    key = jax.random.key(0, impl="unsafe_rbg")  # Compiles ten times faster.
    params = jax.jit(lambda key: model.init(key, PAIR, method="everything"))(key)["params"]
    return {name: np.asarray(leaf) for name, leaf in named_leaves(nn.meta.unbox(params))}


def assert_stddev(preset, expected):
    for path, stddev in expected.items():
        # Six standard errors: the relative error is 1 / sqrt(2 n), at most 1 % for n >= 4,096 numbers.
        assert initial_params(preset)[path].std() == pytest.approx(stddev, rel=0.06), path


def test_gpt2_is_initialised_as_in_its_paper():
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


def test_bert_truncates_its_normal_at_two_standard_deviations():
    # The variance of a standard normal truncated at 2 is 0.774.
    kernels = ["token/embedding", "embed/position", "stack/layers/attention/out/kernel", "head/transform/kernel"]
    assert_stddev("bert", {path: 0.02 * np.sqrt(0.774) for path in kernels})
    assert max(abs(leaf).max() for name, leaf in initial_params("bert").items() if "kernel" in name) <= 0.04


def test_t5_is_initialised_by_fan_in_with_smaller_queries():
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


def test_the_transformer_is_initialised_uniformly_by_both_fans():
    assert_stddev(
        "transformer",
        {
            "token/embedding": 64**-0.5,
            "encoder/layers/attention/query/kernel": np.sqrt(2 / (64 + 64)),
            "decoder/layers/feedforward/in/kernel": np.sqrt(2 / (64 + 128)),
        },
    )
    limit = np.sqrt(6 / (64 + 128))
    kernel = initial_params("transformer")["decoder/layers/feedforward/in/kernel"]
    assert limit * 0.99 < abs(kernel).max() <= limit


def test_a_gain_draws_queries_keys_and_values_as_parts_of_one_matrix():
    plain, joined = (
        build_transformer(tiny.config("transformer", over={"init.attention_gain": gain})) for gain in (1.0, 2**-0.5)
    )
    ours, theirs = (
        dict(named_leaves(nn.meta.unbox(tiny.run_once(lambda key, model=model: _drawn(model, key), jax.random.key(0)))))
        for model in (joined, plain)
    )
    for path, leaf in theirs.items():
        scaled = path.split("/")[-2] in ("query", "key", "value")
        np.testing.assert_allclose(ours[path], leaf * (2**-0.5 if scaled else 1), rtol=1e-6, err_msg=path)


def _drawn(model, key):
    return model.init(key, PAIR, method="everything")["params"]


def test_llama_is_initialised_as_gpt2():
    assert_stddev("llama", {"stack/layers/attention/key/kernel": 0.02, "stack/layers/feedforward/out/kernel": 0.01})


def test_xlnet_initialises_relative_attention_like_all_other_weights():
    for name in ("content_bias", "distance_bias", "type_bias", "types", "distance/kernel"):
        # Three and a half standard errors of 1 / sqrt(256), for at least 128 numbers.
        leaf = initial_params("xlnet")[f"stack/layers/attention/relative/{name}"]
        assert leaf.std() == pytest.approx(0.02, rel=0.22), name


# One preset for each builder and each initialisation.
INITIALISED = ("transformer", "bert", "gpt2", "t5", "llama", "xlnet", "deberta", "palm", "gpt_neox", "mixtral", "bart")


@pytest.mark.parametrize("preset", INITIALISED)
def test_biases_start_at_zero_and_scales_at_one(preset):
    for name, leaf in initial_params(preset).items():
        if name.endswith("bias") and "/relative/" not in name:
            assert not leaf.any(), name
        if name.endswith("scale"):
            assert (leaf == 1).all(), name


@pytest.mark.parametrize("preset", [preset for preset in INITIALISED if preset != "mixtral"])
def test_layers_are_initialised_independently(preset):
    first, second = initial_params(preset)[f"{tiny.stacks(preset)[-1]}/layers/feedforward/in/kernel"]
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("preset", PRESETS)
def test_every_size_is_a_valid_configuration(preset):
    for size in PRESETS[preset].sizes:
        tree = PRESETS[preset].build(size)
        assert from_config_dict(KINDS[tree.kind], tree).kind == tree.kind


# Presets without released checkpoints: no other test runs them.
@pytest.mark.parametrize("preset", ["gpt3", "palm", "gopher"])
def test_models_without_released_weights_give_logits_and_do_not_see_the_future(preset):
    tokens = jnp.asarray([[5, 6, 7, 8, 9, 10], [5, 6, 7, 8, 9, 11]], jnp.int32)
    model, params = tiny.build(tiny.config(preset), Inputs(tokens=tokens))
    logits = jax.jit(lambda params: model.apply({"params": params}, Inputs(tokens=tokens), logits=True).logits)(params)
    assert np.isfinite(logits).all()
    np.testing.assert_array_equal(logits[0, :-1], logits[1, :-1])
    assert (logits[0, -1] != logits[1, -1]).any()


def test_palm_is_initialised_by_fan_in_and_its_token_table_by_one():
    layers = "stack/layers/"
    assert_stddev(
        "palm",
        {
            "token/embedding": 1.0,
            layers + "attention/query/kernel": 64**-0.5,
            layers + "feedforward/out/kernel": 256**-0.5,
        },
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_every_tiny_model_can_be_built(preset):
    assert count(tiny.shapes(build_transformer(tiny.config(preset)), PAIR)) < 1_000_000


def test_an_unknown_size_lists_the_known_ones():
    with pytest.raises(InputError, match="the size of gpt2 is 'smal'; expected one of tiny, .*did you mean small"):
        PRESETS["gpt2"].build("smal")


@pytest.mark.parametrize(
    ("over", "message"),
    [
        (
            {"stack.block.attention.heads": 3, "stack.block.attention.kv_heads": 2},
            "3 is not a positive multiple of .* 2",
        ),
        ({"dtype": "float8"}, "dtype is 'float8'; expected one of float32, bfloat16, float16"),
        ({"stack.block.feedforward.activation": "gleu"}, "expected one of .*did you mean gelu"),
        ({"stack.block.norm_placement": "mid"}, "norm_placement is 'mid'; expected one of pre, post, sandwich"),
        ({"stack.block.attention.position": "rotery"}, "position is 'rotery'; expected one of none, rotary, buckets"),
        ({"embed.positions": "cosine"}, "positions is 'cosine'; expected none, learned or sinusoidal"),
        ({"stack.block.attention.window": 0}, "attention.window is 0; expected more than 0, or None"),
        ({"stack.pattern": ("locl", "block")}, "a kind in stack.pattern is 'locl'; expected one of"),
        (
            {"stack.kinds": {"near": {"attention": {"windo": 4}}}},
            "unknown key stack.kinds.near.attention.windo; did you",
        ),
        (
            {"stack.kinds": {"near": {"attention": {"window": "4"}}}},
            r"stack.kinds.near.attention.window is '4' \(str\)",
        ),
        ({"stack.kinds": {"layers": {}}}, "stack.kinds.layers: this name is reserved"),
        ({"stack.share.groups": 3}, "share has 3 groups of 1 layers, but stack.depth is 2; expected a multiple of 1"),
        (
            {"stack.block.norm_placement": "parallel", "stack.block.cross": {}},
            "'parallel' does not support block.cross",
        ),
        ({"stack.kinds": {"wide": {"attention": {"mask": "full"}}}, "stack.pattern": ("wide",)}, "'full' in a decoder"),
        ({"init.name": "xavier"}, "init.name is 'xavier'; expected one of"),
        ({"stack.block.attention.heads": 3}, "width 64 is not divisible by attention.heads 3; .* width 63 or 66"),
        ({"embed.vocab": None}, "config.model.embed.vocab is not set"),
    ],
    ids=lambda value: next(iter(value.values())) if isinstance(value, dict) else "",
)
def test_an_invalid_setting_is_refused_by_name(over, message):
    with pytest.raises(InputError, match=message):
        tiny.boxed(build_transformer(tiny.config("gpt2", over=over)), PAIR)


def test_a_full_mask_in_a_decoder_and_a_causal_mask_in_an_encoder_are_refused():
    with pytest.raises(InputError, match="'causal' in an encoder; use 'full'"):
        tiny.config("bert", over={"stack.block.attention.mask": "causal"})
    with pytest.raises(InputError, match="'full' in a decoder; use 'causal'"):
        tiny.config("gpt2", over={"stack.block.attention.mask": "full"})


def test_an_encoder_decoder_without_cross_attention_is_refused():
    config = tiny.config("t5")
    blind = dataclasses.replace(config.decoder.block, cross=None)
    with pytest.raises(InputError, match="decoder.block.cross is not set"):
        models.EncoderDecoderConfig(decoder=dataclasses.replace(config.decoder, block=blind))
