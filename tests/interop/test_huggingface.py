"""Loading checkpoints by the tables, refusing damaged ones, and export as the inverse of import."""

import json
import shutil

import jax
import numpy as np
import pytest
import tiny
from interop.cases import FAMILIES, case

from lm_jax import interop
from lm_jax.core.config import InputError
from lm_jax.core.trees import named_leaves
from lm_jax.interop import choice, huggingface, safetensors
from lm_jax.interop.huggingface import open_checkpoint
from lm_jax.interop.safetensors import Tensor
from lm_jax.parallel import mesh
from lm_jax.parallel.layout import Layout
from lm_jax.parallel.mesh import MeshConfig

EXPORTED = ("gpt2", "bert", "t5", "llama", "deberta", "xlnet")


def random_params(config):
    """Random parameters, all different."""
    _, shapes, _ = huggingface.describe(config)
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda shape: generator.normal(size=shape.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """An exported directory, its configuration and its parameters."""
    folder, config = tmp_path_factory.mktemp("gpt2"), tiny.config("gpt2")
    params = random_params(config)
    huggingface.save(folder, choice.tree_for(config), config, params)
    return folder, config, params


def changed(folder, tmp_path, change):
    """Copies a checkpoint; `change` replaces its tensors, given by name."""
    shutil.copy(folder / "config.json", tmp_path)
    arrays = {name: np.asarray(entry.read()) for name, entry in safetensors.entries(folder).items()}
    arrays = change(arrays) or arrays
    safetensors.write(
        tmp_path, [Tensor(name, array.shape, array.dtype, lambda array=array: array) for name, array in arrays.items()]
    )
    return tmp_path


def assert_same(before, after):
    for (path, left), (_, right) in zip(named_leaves(before), named_leaves(after), strict=True):
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right), err_msg=path)


@pytest.mark.parametrize(("preset", "head", "order"), [("bert", "cls.seq_relationship", -1), ("albert", "", 1)])
def test_classes_of_sentence_pairs_keep_their_meaning(preset, head, order, tmp_path):
    """Our class 1 is the next sentence, BERT's is 0; swapped segments are class 1 here and in ALBERT."""
    config = tiny.config(preset)
    params = random_params(config)
    huggingface.save(tmp_path, choice.tree_for(config), config, params)
    entries = safetensors.entries(tmp_path)
    for leaf, name in (("kernel", "weight"), ("bias", "bias")):
        theirs = entries[f"{head or 'sop_classifier.classifier'}.{name}"].read()
        np.testing.assert_array_equal(theirs, params["pair"]["out"][leaf].T[::order])


def test_the_span_boundary_head_is_left_out_of_an_export(tmp_path):
    config = tiny.config("bert", over={"boundary": 4, "boundary_width": 8, "pair_classes": 0})
    params = random_params(config)
    huggingface.save(tmp_path, choice.tree_for(config), config, params)
    _, loaded = interop.load(tmp_path)
    assert "boundary" in params and "boundary" not in loaded
    assert_same({name: tree for name, tree in params.items() if name != "boundary"}, loaded)


@pytest.mark.parametrize("preset", EXPORTED)
def test_export_then_import_is_the_identity(preset, tmp_path):
    config = tiny.config(preset)
    params = random_params(config)
    huggingface.save(tmp_path, choice.tree_for(config), config, params)
    module, again = interop.load(tmp_path)
    assert choice.function_of(module.config) == choice.function_of(config)
    assert_same(params, again)


@pytest.mark.parametrize("family", FAMILIES)
def test_import_then_export_is_the_identity(family, tmp_path):
    folder = case(family)
    checkpoint = open_checkpoint(folder)
    huggingface.save(tmp_path, checkpoint.tree, checkpoint.config, checkpoint.params(), checkpoint.extra())
    before, after = safetensors.entries(folder), safetensors.entries(tmp_path)
    assert set(before) == set(after)
    for name, entry in before.items():
        # We compute the table of sinusoids; its rounding differs.
        atol = 1e-7 if "embed_positions" in name and family == "pegasus" else 0
        np.testing.assert_allclose(after[name].read(), entry.read(), rtol=0, atol=atol, err_msg=name)


def test_a_model_that_no_family_computes_is_not_exported():
    config = tiny.config("gpt2", over={"stack.block.norm_placement": "sandwich"})
    with pytest.raises(InputError, match="no Hugging Face family"):
        choice.tree_for(config)


def test_missing_tensors_are_named(gpt2, tmp_path):
    lost = "transformer.h.1.mlp.c_fc.bias"
    without = lambda arrays: {name: array for name, array in arrays.items() if name != lost}
    folder = changed(gpt2[0], tmp_path, without)
    with pytest.raises(InputError, match=r"transformer\.h\.1\.mlp\.c_fc\.bias missing") as error:
        interop.load(folder)
    assert "\n" not in str(error.value)


def test_unexpected_tensors_are_named(gpt2, tmp_path):
    folder = changed(gpt2[0], tmp_path, lambda arrays: arrays | {"transformer.h.0.moe.gate": np.zeros(3, np.float32)})
    with pytest.raises(InputError, match=r"transformer\.h\.0\.moe\.gate unexpected"):
        interop.load(folder)


def test_tensors_of_another_shape_are_named_with_both_shapes(gpt2, tmp_path):
    wide = np.zeros((64, 100), np.float32)
    folder = changed(gpt2[0], tmp_path, lambda arrays: arrays | {"transformer.h.0.attn.c_attn.weight": wide})
    with pytest.raises(InputError, match=r"c_attn\.weight is \[64, 100\], not \[64, 192\]"):
        interop.load(folder)


def test_a_checkpoint_of_the_model_alone_has_names_without_a_prefix(gpt2, tmp_path):
    bare = lambda arrays: {name.removeprefix("transformer."): array for name, array in arrays.items()}
    masks = {"h.0.attn.bias": np.ones((1, 1, 4, 4), bool)}
    folder = changed(gpt2[0], tmp_path, lambda arrays: bare(arrays) | masks)
    assert_same(interop.load(folder)[1], gpt2[2])


def test_wrapped_names_are_read_and_reported(gpt2, tmp_path):
    wrapped = lambda arrays: {f"module._orig_mod.{name}": array for name, array in arrays.items()}
    folder = changed(gpt2[0], tmp_path, wrapped)
    assert_same(interop.load(folder)[1], gpt2[2])
    assert "removed module._orig_mod." in open_checkpoint(folder).notes[0]


def test_links_into_a_cache_are_followed(gpt2, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(gpt2[0] / name)
    assert_same(interop.load(tmp_path)[1], gpt2[2])


def test_names_of_the_first_releases_are_read(tmp_path):
    config = tiny.config("bert")
    params = random_params(config)
    huggingface.save(tmp_path / "new", choice.tree_for(config), config, params)
    early = lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    (tmp_path / "old").mkdir()
    rename = lambda arrays: {early(name): array for name, array in arrays.items()}
    folder = changed(tmp_path / "new", tmp_path / "old", rename)
    assert any(name.endswith("gamma") for name in safetensors.entries(folder))
    assert_same(interop.load(folder)[1], params)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_becomes_float32_parameters(gpt2, tmp_path, dtype):
    import ml_dtypes

    narrow = np.dtype(getattr(ml_dtypes, dtype, dtype))
    folder = changed(gpt2[0], tmp_path, lambda arrays: {name: array.astype(narrow) for name, array in arrays.items()})
    _, params = interop.load(folder)
    assert_same(params, jax.tree.map(lambda leaf: leaf.astype(narrow).astype(np.float32), gpt2[2]))
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))


def test_eight_devices_get_the_same_numbers_as_one(gpt2):
    layout = Layout(mesh.make(MeshConfig(data=1, fsdp=8)))
    _, sharded = interop.load(gpt2[0], layout)
    assert_same(sharded, gpt2[2])
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(sharded))


def test_shards_load_as_one_file_does(gpt2, tmp_path):
    shutil.copy(gpt2[0] / "config.json", tmp_path)
    entries = safetensors.entries(gpt2[0])
    tensors = [Tensor(name, entry.shape, entry.dtype, entry.read) for name, entry in entries.items()]
    assert len(safetensors.write(tmp_path, tensors, largest=100_000)) > 2
    assert_same(interop.load(tmp_path)[1], gpt2[2])


def test_parameters_do_not_depend_on_the_file_once_loaded(gpt2, tmp_path):
    folder = shutil.copytree(gpt2[0], tmp_path / "copy")
    _, params = interop.load(folder)
    file = folder / "model.safetensors"
    with open(file, "r+b") as stream:
        stream.seek(-4096, 2)
        stream.write(b"\xff" * 4096)
    assert_same(params, gpt2[2])


def test_an_unknown_family_lists_the_known_ones(gpt2, tmp_path):
    folder = shutil.copytree(gpt2[0], tmp_path / "copy")
    tree = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**tree, "model_type": "gpt3"}))
    with pytest.raises(InputError, match="gpt3.*gpt2"):
        interop.load(folder)


def test_a_directory_without_settings_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        interop.load(tmp_path)


def test_real_weights_of_an_albert_compute_what_the_reference_computes(shared_data, tmp_path):
    """RXNMapper's ALBERT: 12 layers that share 735,567 parameters, trained on reactions."""
    weights = shared_data / "weights"
    shutil.copy(weights / "rxnmapper_albert_config.json", tmp_path / "config.json")
    (tmp_path / "model.safetensors").symlink_to(weights / "rxnmapper_albert.safetensors")
    with np.load(weights / "rxnmapper_albert_reference.npz") as file:
        reference = {name: file[name] for name in file.files}
    rows = np.concatenate([reference["masked_ids"], reference["input_ids"]]).astype(np.int32)
    outputs = interop.run(tmp_path, {"input_ids": rows})
    # After twelve float32 layers with real weights, logits of 20 and more differ in the sixth digit.
    np.testing.assert_allclose(outputs["logits"][:1], reference["masked_logits"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(outputs["logits"][1:], reference["logits"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(outputs["attentions/11"][1:], reference["attn_l11"], rtol=0, atol=1e-5)
