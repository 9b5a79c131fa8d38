"""Settings and tensor names of DeBERTa checkpoints; the reference cases test their outputs."""

import json

import jax
import numpy as np
import pytest
import tiny
from interop.test_huggingface import assert_same, changed, random_params

from lm_jax import interop
from lm_jax.core.config import InputError
from lm_jax.interop import choice, huggingface, safetensors
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import deberta

TREE = {
    "model_type": "deberta-v2",
    "architectures": ["DebertaV2ForMaskedLM"],
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "relative_attention": True,
    "position_buckets": 8,
    "pos_att_type": ["c2p", "p2c"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "type_vocab_size": 0,
}


def read(tensors=(), **over):
    settings = Settings({**TREE, **over}, tensors, heads=deberta.FAMILY.heads)
    config = deberta.FAMILY.configure(settings)
    settings.finish()
    return config


def test_both_spellings_of_the_terms_mean_the_same():
    assert read(pos_att_type="p2c|c2p") == read()
    single = read(pos_att_type="c2p").stack.block.attention.disentangled
    assert (single.content_to_position, single.position_to_content) == (True, False)


def test_the_largest_distance_is_the_longest_input_unless_it_is_set():
    assert read().stack.block.attention.disentangled.max_distance == 40
    assert read(max_relative_positions=-1).stack.block.attention.disentangled.max_distance == 40
    assert read(max_relative_positions=24).stack.block.attention.disentangled.max_distance == 24
    assert read(position_buckets=-1).stack.block.attention.disentangled.span == 40


def test_scores_are_scaled_for_all_terms_even_without_relative_positions():
    plain = read(relative_attention=False).stack.block.attention
    assert (plain.position, plain.scale) == ("none", pytest.approx(24**-0.5))
    assert read(relative_attention=False, pos_att_type=[]).stack.block.attention.scale is None


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"pos_att_type": ["c2p", "p2p"]}, "pos_att_type has p2p"),
        ({"norm_rel_ebd": "batch_norm"}, "norm_rel_ebd has batch_norm"),
        ({"attention_head_size": 16}, "attention_head_size is 16"),
        ({"z_steps": 2}, "z_steps is 2"),
        ({"conv_kernel_size": 4}, "width is 4; expected an odd"),
        ({"embedding_size": 16, "legacy": False}, "embedding_size is 16 and hidden_size 32"),
        ({"architectures": ["DebertaV2ForPreTraining"]}, "DebertaV2ForPreTraining"),
        ({"architectures": ["DebertaV2ForSequenceClassification"], "pooler_hidden_size": 8}, "pooler_hidden_size is 8"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_unsupported_settings_are_refused_by_name(over, message):
    with pytest.raises(InputError, match=message):
        read(**over)


def later(arrays):
    """Renames tensors as in the released models, and adds their unused one."""
    names = {table: name for name, table in deberta._ORIGINAL_HEAD_NAMES.items()}
    unused = {"mask_predictions.dense.weight": np.ones((3, 3), np.float32)}
    return {names.get(name, name): array for name, array in arrays.items()} | unused


def test_released_models_whose_settings_lack_the_class_are_read(tmp_path):
    config = tiny.config("deberta")
    params, tree = random_params(config), choice.tree_for(config)
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    huggingface.save(tmp_path / "ours", tree, config, params)
    folder = changed(tmp_path / "ours", tmp_path / "theirs", later)
    fields = {name: value for name, value in tree.items() if name not in ("architectures", "tie_word_embeddings")}
    (folder / "config.json").write_text(json.dumps(fields))
    module, again = interop.load(folder)
    assert choice.function_of(module.config) == choice.function_of(config)
    assert_same(again, params)


def test_a_head_without_legacy_is_exported_under_its_later_names(tmp_path):
    config, tree = read(legacy=False), {**TREE, "legacy": False}
    params = random_params(config)
    huggingface.save(tmp_path, tree, config, params)
    names = set(safetensors.entries(tmp_path))
    assert set(deberta._ORIGINAL_HEAD_NAMES) <= names and not any(name.startswith("cls.") for name in names)
    assert_same(interop.load(tmp_path)[1], params)
    rows = {"input_ids": np.arange(12).reshape(2, 6), "labels": np.arange(12).reshape(2, 6)}
    assert "grad/lm_predictions.lm_head.dense.weight" in interop.run(tmp_path, rows)


@pytest.mark.parametrize(
    "over",
    [
        {"conv_kernel_size": 3, "conv_groups": 2, "conv_act": "gelu"},
        {"share_att_key": False, "type_vocab_size": 2, "position_biased_input": True},
        {"embedding_size": 16, "norm_rel_ebd": "none"},
        {"tie_word_embeddings": False},
        {"architectures": ["DebertaV2ForSequenceClassification"], "id2label": {"0": "no", "1": "yes", "2": "both"}},
    ],
    ids=["convolution", "separate projections", "narrow tables", "untied readout", "classes"],
)
def test_export_then_import_is_the_identity(tmp_path, over):
    tree = {**TREE, **over}
    config = read(**over)
    params = random_params(config)
    huggingface.save(tmp_path, tree, config, params)
    module, again = interop.load(tmp_path)
    assert module.config == config
    assert jax.tree.structure(again) == jax.tree.structure(params)
    assert_same(again, params)


def test_one_class_means_regression(tmp_path):
    over = {"architectures": ["DebertaV2ForSequenceClassification"], "id2label": {"0": "score"}}
    config = read(**over)
    huggingface.save(tmp_path, {**TREE, **over}, config, random_params(config))
    labels = np.array([0.5, -2.0], np.float32)
    outputs = interop.run(tmp_path, {"input_ids": np.arange(12).reshape(2, 6), "labels": labels})
    np.testing.assert_allclose(outputs["loss"], np.square(outputs["logits"][:, 0] - labels).mean(), rtol=1e-5)
