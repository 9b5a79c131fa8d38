"""Every field of config.json that changes the function is supported or refused."""

import dataclasses

import pytest

from lm_jax.core.config import InputError
from lm_jax.interop import fields
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import TABLES
from lm_jax.models.config import ScalingConfig

LLAMA = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def llama(**over):
    return read({**LLAMA, **over})


def read(tree, tensors=()):
    settings = Settings(tree, tensors, heads=TABLES[tree["model_type"]].heads)
    config = TABLES[tree["model_type"]].configure(settings)
    settings.finish()
    return config


def test_a_field_that_may_change_the_function_is_refused_by_name():
    with pytest.raises(InputError, match="attention_sinks is 4"):
        llama(attention_sinks=4)


def ignored(**over):
    """The fields that the import of a LLaMA ignores."""
    settings = Settings({**LLAMA, **over}, heads=TABLES["llama"].heads)
    TABLES["llama"].config(settings)
    return settings.finish(fields.of("llama"))


def test_fields_that_no_class_reads_are_ignored_by_name():
    names = ignored(condition_on_chain=True, rxn_version=2, use_cache=True, off=False)
    assert names == ("condition_on_chain", "rxn_version")


@pytest.mark.parametrize("field", ["quantization_config", "per_layer_config", "attention_chunk_size", "pruned_heads"])
def test_fields_that_some_class_reads_are_refused_by_name(field):
    with pytest.raises(InputError, match=rf"{field} is .*--hf\.{field}= leaves it out"):
        ignored(**{field: {"0": 4}})


def test_custom_code_may_read_any_field():
    with pytest.raises(InputError, match="auto_map names custom code"):
        ignored(sinks=4, auto_map={"AutoModel": "modeling.Model"})


@pytest.mark.parametrize("release", ["5.24.1", "4.57.6"])
def test_fields_of_listed_releases_are_known(release):
    assert ignored(sinks=4, transformers_version=release) == ("sinks",)


@pytest.mark.parametrize("release", ["5.25.0.dev0", "6.0"])
def test_fields_of_later_releases_are_not_known(release):
    with pytest.raises(InputError, match=f"written by transformers {release}"):
        ignored(sinks=4, transformers_version=release)


@pytest.mark.parametrize(
    ("over", "count"),
    [
        ({}, 2),
        ({"num_labels": 5}, 5),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, 3),
        ({"id2label": {"0": "a", "1": "b"}, "num_labels": 50}, 50),
    ],
)
def test_a_number_of_labels_wins_over_their_names(over, count):
    assert Settings(over).labels() == count


@pytest.mark.parametrize("field", ["use_cache", "torch_dtype", "eos_token_id", "attention_dropout", "_name_or_path"])
def test_fields_that_do_not_change_the_function_are_ignored(field):
    assert llama(**{field: 7}) == llama()


def test_a_switch_that_is_off_is_ignored():
    assert llama(some_new_mechanism=False, another=None) == llama()


def test_both_spellings_of_rotary_settings_mean_the_same():
    llama3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    before = llama(rope_theta=5e5, rope_scaling={"rope_type": "llama3", **llama3})
    after = llama(rope_parameters={"rope_theta": 5e5, "rope_type": "llama3", **llama3})
    assert before == after
    rotary = before.stack.block.attention.rotary
    assert rotary.theta == 5e5
    assert rotary.scaling == ScalingConfig(name="llama3", factor=8.0, length=32, low=1.0, high=4.0)


def test_the_first_spelling_of_scaling_is_read_too():
    rotary = llama(rope_scaling={"type": "linear", "factor": 2.0}).stack.block.attention.rotary
    assert rotary.scaling == ScalingConfig(name="linear", factor=2.0)


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "proportional", "factor": 2.0}, "proportional"),
        ({"rope_type": "longrope", "short_factor": [1.0]}, "long_factor"),
        ({"rope_type": "linear", "factor": 2.0, "new_knob": 3}, "new_knob"),
    ],
)
def test_unknown_scaling_is_refused(scaling, message):
    with pytest.raises(InputError, match=message):
        llama(rope_scaling=scaling)


def test_an_unknown_activation_lists_the_known_ones():
    with pytest.raises(InputError, match="gelu_10.*gelu_new"):
        llama(hidden_act="gelu_10")


def test_a_class_that_is_not_supported_is_named():
    with pytest.raises(InputError, match="LlamaForMultipleChoice"):
        llama(architectures=["LlamaForMultipleChoice"])


def test_a_missing_field_is_named():
    with pytest.raises(InputError, match="num_attention_heads"):
        read({name: value for name, value in LLAMA.items() if name != "num_attention_heads"})


def test_scores_of_gpt2_may_be_divided_by_the_layers_number():
    tree = {"model_type": "gpt2", "vocab_size": 64, "n_positions": 8, "n_embd": 32, "n_layer": 3, "n_head": 2}
    config = read({**tree, "scale_attn_by_inverse_layer_idx": True})
    scales = [config.stack.kind(name).attention.scale for name in config.stack.pattern]
    assert scales == pytest.approx([0.25, 0.125, 0.25 / 3])
    assert read(tree).stack.block.attention.scale is None


def test_qwen2_has_windows_only_in_the_last_layers_and_only_if_enabled():
    tree = {**LLAMA, "model_type": "qwen2", "sliding_window": 4, "max_window_layers": 1, "num_hidden_layers": 3}
    assert read(tree).stack.pattern == ()
    sliding = read({**tree, "use_sliding_window": True}).stack
    assert [sliding.kind(name).attention.window for name in sliding.pattern] == [None, 4, 4]


def test_mistral_without_a_window_is_not_mistral_with_the_default_one():
    assert read({**LLAMA, "model_type": "mistral", "sliding_window": None}).stack.block.attention.window is None
    assert read({**LLAMA, "model_type": "mistral"}).stack.block.attention.window == 4096


@pytest.mark.parametrize(
    ("tree", "tensors", "tied", "scaled"),
    [
        ({}, (), True, True),
        ({"tie_word_embeddings": False}, ("lm_head.weight",), False, False),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, ("lm_head.weight",), False, False),
    ],
)
def test_t5_is_scaled_and_tied_as_in_its_release(tree, tensors, tied, scaled):
    sizes = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    readout = read({"model_type": "t5", **sizes, **tree}, tensors).readout
    assert (readout.tied, readout.scale) == (tied, scaled)


def test_reading_does_not_change_config_json():
    tree = dict(LLAMA)
    read(tree)
    assert tree == LLAMA
    assert dataclasses.is_dataclass(llama())


XLNET = {"model_type": "xlnet", "vocab_size": 64, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}


@pytest.mark.parametrize(
    ("field", "value"),
    [("attn_type", "both"), ("untie_r", False), ("ff_activation", "gelu_10"), ("dropatt_kind", "hard")],
)
def test_an_xlnet_that_is_another_function_is_refused_by_name(field, value):
    with pytest.raises(InputError, match=field):
        read({**XLNET, field: value})


def test_settings_of_xlnet_that_change_the_function_are_read():
    plain = read(XLNET)
    attention = plain.stack.block.attention
    assert (plain.kind, plain.memory.length, plain.memory.reuse, attention.head_width(32)) == ("encoder", 512, None, 8)
    other = {"attn_type": "uni", "same_length": True, "clamp_len": 3, "bi_data": True, "d_head": 5, "reuse_len": 2}
    changed = read({**XLNET, **other, "mem_len": None})
    attention = changed.stack.block.attention
    assert (changed.kind, attention.mask, attention.same_length) == ("decoder", "causal", True)
    assert (attention.transformer_xl.clamp, attention.transformer_xl.both_ways) == (3, True)
    assert (changed.memory.length, changed.memory.reuse, attention.head_width(32)) == (None, 2, 5)
    # `same_length` has no effect on attention in both directions.
    assert read({**XLNET, "same_length": True}) == plain


def test_unsupported_summaries_of_an_xlnet_classifier_are_refused():
    family = TABLES["xlnet"]
    classify = lambda tree: family.configure(Settings(tree, heads=family.heads)).task
    classifier = {**XLNET, "architectures": ["XLNetForSequenceClassification"]}
    for field, value in (("summary_type", "attn"), ("summary_activation", "wave"), ("summary_proj_to_labels", True)):
        with pytest.raises(InputError, match=field):
            classify({**classifier, field: value})
        # Other classes have no summary.
        assert not classify({**XLNET, field: value}).exists
    assert classify({**classifier, "summary_type": "first"}).pool == "first"
    assert not classify({**classifier, "summary_use_proj": False}).dense
    with pytest.raises(InputError, match="XLNetForQuestionAnswering"):
        classify({**XLNET, "architectures": ["XLNetForQuestionAnswering"]})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"hidden_act": "gelu", "hidden_activation": None}, "gelu_tanh"),
        ({"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}, "gelu_tanh"),
        ({"hidden_act": "gelu_pytorch_tanh"}, "gelu_tanh"),
        ({}, "gelu_tanh"),
        ({"hidden_act": "silu"}, "silu"),
    ],
)
def test_gelu_of_the_first_gemmas_is_its_tanh_approximation(fields, expected):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    tree = {"model_type": "gemma", "vocab_size": 32, "head_dim": 8, "num_key_value_heads": 1, **sizes, **fields}
    config = TABLES["gemma"].config(Settings(tree))
    assert config.stack.block.feedforward.activation == expected
