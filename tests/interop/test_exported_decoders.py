"""Decoder presets are exported as config.json of their families and read back as the same function."""

import jax
import numpy as np
import pytest
import tiny

from lm_jax import interop
from lm_jax.core.config import InputError, Tree, from_config_dict
from lm_jax.core.trees import named_leaves
from lm_jax.interop import choice, huggingface
from lm_jax.interop.settings import Settings
from lm_jax.models.config import KINDS
from lm_jax.models.presets import PRESETS

# model_type and class by preset.
DECODERS = {
    "gpt": ("openai-gpt", "OpenAIGPTLMHeadModel"),
    "gpt_neo": ("gpt_neo", "GPTNeoForCausalLM"),
    "gptj": ("gptj", "GPTJForCausalLM"),
    "gpt_neox": ("gpt_neox", "GPTNeoXForCausalLM"),
    "pythia": ("gpt_neox", "GPTNeoXForCausalLM"),
    "opt": ("opt", "OPTForCausalLM"),
    "bloom": ("bloom", "BloomForCausalLM"),
    "falcon": ("falcon", "FalconForCausalLM"),
    "mpt": ("mpt", "MptForCausalLM"),
    "mistral": ("mistral", "MistralForCausalLM"),
    "mixtral": ("mixtral", "MixtralForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "gemma": ("gemma", "GemmaForCausalLM"),
    "gemma2": ("gemma2", "Gemma2ForCausalLM"),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
}
# model_type of other presets.
TYPES = dict(gpt2="gpt2", bert="bert", t5="t5", t5_v1_0="t5", llama="llama", deberta="deberta-v2", xlnet="xlnet")
WINDOW = {"stack.kinds": Tree(local=Tree(attention=Tree(window=8))), "stack.pattern": ("block", "local")}
ATTENTION, FEEDFORWARD = "stack.block.attention", "stack.block.feedforward"
# Variants of presets: preset, settings, model_type, and fields of config.json.
VARIANTS = {
    "mistral without a window": ("mistral", {f"{ATTENTION}.window": None}, "llama", {"rope_theta": 10000.0}),
    "qwen2 with local layers only": (
        *("qwen2", {f"{ATTENTION}.window": 8}, "qwen2"),
        {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["sliding_attention"] * 2},
    ),
    "qwen3 with some local layers": (
        *("qwen3", WINDOW, "qwen3"),
        {"sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]},
    ),
    "gpt_neo without local layers": (
        *("gpt_neo", {"stack.pattern": ()}, "gpt_neo"),
        {"attention_types": [[["global", "global"], 1]]},
    ),
    "gemma3 with another pattern": (
        *("gemma3", {"stack.pattern": ("block", "local"), "stack.depth": 3}, "gemma3_text"),
        {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
    ),
    "gemma3 with the default scale of scores": (
        *("gemma3", {f"{ATTENTION}.scale": None}, "gemma3_text"),
        {"query_pre_attn_scalar": 32},
    ),
    "gemma with exact gelu": (
        *("gemma", {f"{FEEDFORWARD}.activation": "gelu"}, "gemma"),
        {"hidden_act": "gelu_python"},
    ),
    "falcon with grouped keys and two norms": (
        *("falcon", {f"{ATTENTION}.kv_heads": 2, "stack.block.norm_placement": "parallel_two"}, "falcon"),
        {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 2},
    ),
    "falcon of the first releases": (
        *("falcon", {f"{ATTENTION}.kv_heads": None, "stack.block.norm_placement": "pre"}, "falcon"),
        {"new_decoder_architecture": False, "multi_query": False, "parallel_attn": False},
    ),
    "pythia with sequential sublayers": (
        *("pythia", {"stack.block.norm_placement": "pre"}, "gpt_neox"),
        {"use_parallel_residual": False},
    ),
    "opt with narrow tables": (
        *("opt", {"embed.factor": 32, "embed.factor_first": True, "final_norm": False}, "opt"),
        {"word_embed_proj_dim": 32, "_remove_final_layer_norm": True},
    ),
    "bloom with a normalised residual stream": (
        *("bloom", {"stack.block.norm_placement": "stream"}, "bloom"),
        {"apply_residual_connection_post_layernorm": True},
    ),
    "mpt that clips queries, keys and values": (
        *("mpt", {f"{ATTENTION}.clip": 6.0, f"{ATTENTION}.scale": 0.5}, "mpt"),
        {"attn_config": {"alibi": True, "clip_qkv": 6.0, "softmax_scale": 0.5}},
    ),
}
REFUSED = {
    "PaLM": ("palm", {}),
    "Gopher": ("gopher", {}),
    "Chinchilla": ("chinchilla", {}),
    "GPT-3": ("gpt3", {}),
    "an activation that the class lacks": ("gpt", {f"{FEEDFORWARD}.activation": "quick_gelu"}),
    "windows of two lengths": (
        "gpt_neo",
        {"stack.kinds": Tree({name: Tree(attention=Tree(window=size)) for name, size in (("block_8", 8), ("far", 16))}),
         "stack.pattern": ("block_8", "far")},
    ),
    "scaled local RoPE": ("gemma3", {"stack.kinds.local.attention.rotary.scaling": Tree(name="linear", factor=2.0)}),
    "falcon with grouped keys and sequential sublayers": (
        "falcon", {f"{ATTENTION}.kv_heads": 2, "stack.block.norm_placement": "pre"},
    ),
    "a scale that is not an inverse square root of an integer": ("gemma2", {f"{ATTENTION}.scale": 0.3}),
    "a scale of zero": ("gemma2", {f"{ATTENTION}.scale": 0.0}),
    "muP's scaling of scores and logits": ("llama", {"init.name": "mup"}),
    "a rotary dimension that is not an integer": ("gptj", {f"{ATTENTION}.rotary.fraction": 0.26}),
}  # fmt: skip


def read_back(tree):
    """Reads an exported config.json as our configuration."""
    family = huggingface.family_of(tree)
    settings = Settings(tree, (), heads=family.heads)
    config = family.config(settings)
    assert settings.finish(huggingface.fields.of(tree["model_type"])) == ()
    return config


@pytest.mark.parametrize("preset", DECODERS)
def test_every_size_of_a_preset_is_its_family_and_reads_back_as_the_same_function(preset):
    for size in PRESETS[preset].sizes:
        tree = PRESETS[preset].build(size)
        tree.embed.vocab = tiny.VOCABULARY.size
        config = from_config_dict(KINDS[tree.kind], tree)
        theirs = choice.tree_for(config)
        assert (theirs["model_type"], *theirs["architectures"]) == DECODERS[preset]
        assert choice.function_of(read_back(theirs)) == choice.function_of(config)


@pytest.mark.parametrize(("preset", "kind"), TYPES.items())
def test_other_presets_are_exported_as_their_families(preset, kind):
    assert choice.tree_for(tiny.config(preset))["model_type"] == kind


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_a_family_write_the_fields_that_differ(name):
    preset, over, kind, fields = VARIANTS[name]
    config = tiny.config(preset, over=over)
    theirs = choice.tree_for(config)
    assert {"model_type": kind, **fields}.items() <= theirs.items()
    assert choice.function_of(read_back(theirs)) == choice.function_of(config)


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_no_family_computes_is_refused_in_one_line(name):
    preset, over = REFUSED[name]
    with pytest.raises(InputError, match="no Hugging Face family computes what this model computes") as error:
        choice.tree_for(tiny.config(preset, over=over))
    assert "\n" not in str(error.value)


# With two kinds of layers, fused matrices and experts. Other tests read exports of every family, also by transformers.
@pytest.mark.parametrize("preset", ["gpt_neo", "falcon", "mixtral"])
def test_an_export_loads_with_the_same_parameters(preset, tmp_path):
    config, generator = tiny.config(preset), np.random.default_rng(0)
    shapes = huggingface.describe(config)[1]
    params = jax.tree.map(lambda shape: generator.normal(size=shape.shape).astype(np.float32), shapes)
    huggingface.save(tmp_path, choice.tree_for(config), config, params)
    loaded = interop.load(tmp_path)[1]
    for (path, before), (_, after) in zip(named_leaves(params), named_leaves(loaded), strict=True):
        np.testing.assert_array_equal(before, after, err_msg=path)
