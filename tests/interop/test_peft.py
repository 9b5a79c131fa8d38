"""Adapter directories of PEFT: their tensors change their weights as our parameters change ours, and are read back."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
import tiny

from lm_jax.adapt import AdaptConfig, adapt
from lm_jax.core.config import InputError
from lm_jax.core.trees import flatten, map_named, unflatten
from lm_jax.interop import choice, huggingface, peft
from lm_jax.models.model import build_model

# Families whose projections are stored apart, fused in each order, as [in, out], and with shared keys and values.
PRESETS = ("bert", "gpt2", "bloom", "llama", "t5")


@functools.cache
def case(preset, method, targets):
    """The class of a small model, and random parameters with an adapter."""
    config = tiny.config(preset, over=tiny.everywhere(preset, depth=2))
    plain = build_model(config, config.embed.vocab)
    tree = choice.tree_for(plain.module.config)
    family = huggingface.family_of(tree)
    rules = family.rules(plain.module.config, tree["architectures"][0], tree)
    places = peft.places(rules, plain.module.config, plain.shapes, plain.axes)
    sizes = {} if method == "ia3" else {"rank": 2, "alpha": 3.0}
    model = adapt(plain, AdaptConfig(method=method, targets=targets, **sizes))
    drawn = model.extend(tiny.random_params(plain.shapes), jax.random.key(0))
    rng = np.random.default_rng(1)
    noisy = lambda path, leaf: leaf + 0.3 * rng.standard_normal(leaf.shape, np.float32) if _trained(path) else leaf
    return plain, model, rules, places, map_named(noisy, drawn)


def _trained(path):
    return path.endswith(("/up", "/down", "/magnitude")) or "/ia3/" in path


def changed(weight, tensors, alpha, method):
    """Their weight [out, in] with an adapter, as PEFT merges it."""
    if method == "ia3":
        return weight * tensors["ia3_l"]
    first, second = tensors["lora_A.weight"], tensors["lora_B.weight"]
    scale = alpha / (len(first) ** 0.5 if method == "rslora" else len(first))
    weight = weight + scale * second @ first
    if method != "dora":
        return weight
    return weight * (tensors["lora_magnitude_vector"] / np.linalg.norm(weight, axis=1))[:, None]


# Of rsLoRA, which differs from LoRA in a factor, the other families are slow.
CASES = [
    pytest.param(preset, method, targets, marks=pytest.mark.slow if method == "rslora" and preset != "bert" else ())
    for method, targets in (("lora", ("attention", "feedforward")), ("rslora", ("query",)), ("ia3", ()))
    for preset in PRESETS
]


@pytest.mark.parametrize(("preset", "method", "targets"), CASES)
def test_their_weights_change_as_ours(preset, method, targets, tmp_path):
    plain, model, rules, places, params = case(preset, method, targets)
    adapter = peft.collect(places, {path: np.asarray(leaf) for path, leaf in flatten(params).items()}, method)
    theirs = lambda tree: {
        name: array for _, name, array in huggingface.to_theirs(rules, plain.module.config, plain.shapes, tree)
    }
    base = {path: leaf for path, leaf in flatten(params).items() if path in flatten(plain.shapes)}
    before, after = theirs(unflatten(base)), theirs(model.merge(params))
    assert adapter.tensors
    for module, tensors in adapter.tensors.items():
        name = f"{module}.weight"
        conv1d = preset == "gpt2"
        weight = before[name].T if conv1d else before[name]
        expected = changed(weight, tensors, adapter.alphas.get(module), method)
        np.testing.assert_allclose(after[name], expected.T if conv1d else expected, atol=1e-5, err_msg=name)
    same = {name for name in before if name.removesuffix(".weight") not in adapter.tensors and name.endswith("weight")}
    assert all(np.array_equal(before[name], after[name]) for name in same)
    # Written and read back, they are the same parameters, or the same product of another rank.
    peft.write(tmp_path, adapter, "BertForMaskedLM")
    loaded = peft.load(peft.read(tmp_path), places, plain.shapes, plain.axes, tmp_path)
    again = adapt(plain, AdaptConfig(**{**loaded.settings, "ranks": ()}))
    merged = again.merge(unflatten(base | loaded.leaves))
    for path, leaf in flatten(model.merge(params)).items():
        np.testing.assert_allclose(flatten(merged)[path], leaf, atol=1e-5, err_msg=path)


def test_the_directory_is_that_of_peft(tmp_path):
    *_, places, params = case("bert", "dora", ("query",))
    adapter = peft.collect(places, {path: np.asarray(leaf) for path, leaf in flatten(params).items()}, "dora")
    peft.write(tmp_path, adapter, "BertForSequenceClassification")
    tree = json.loads((tmp_path / "adapter_config.json").read_text())
    assert tree["peft_type"] == "LORA" and tree["use_dora"] and tree["task_type"] == "SEQ_CLS"
    assert (tree["r"], tree["lora_alpha"], tree["rank_pattern"]) == (2, 3.0, {})
    assert tree["target_modules"] == [f"bert.encoder.layer.{layer}.attention.self.query" for layer in range(2)]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"peft_type": "LOHA"}, "peft_type 'LOHA'; expected LORA, IA3, PROMPT_TUNING"),
        ({"bias": "all"}, "bias='all', which changes the adapter's function and is not read"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4', which changes"),
        ({"alora_invocation_tokens": [5, 6]}, "alora_invocation_tokens=.5, 6., which changes"),
        (
            {"use_dora": True},
            "has lora_A.weight, lora_B.weight of bert.* expected lora_A.weight, lora_B.weight, lora_mag",
        ),
    ],
)
def test_other_adapters_are_refused(change, message, tmp_path):
    *_, places, params = case("bert", "lora", ("query",))
    adapter = peft.collect(places, {path: np.asarray(leaf) for path, leaf in flatten(params).items()}, "lora")
    peft.write(tmp_path, adapter, "BertModel")
    tree = json.loads((tmp_path / "adapter_config.json").read_text()) | change
    (tmp_path / "adapter_config.json").write_text(json.dumps(tree))
    with pytest.raises(InputError, match=message):
        peft.read(tmp_path)


def test_an_adapter_of_another_base_is_refused(tmp_path):
    *_, places, params = case("bert", "lora", ("query",))
    adapter = peft.collect(places, {path: np.asarray(leaf) for path, leaf in flatten(params).items()}, "lora")
    plain, _, _, others, _ = case("gpt2", "lora", ("query",))
    with pytest.raises(InputError, match="adapts bert.encoder.layer.0.attention.self.query, which the base lacks"):
        peft.load(adapter, others, plain.shapes, plain.axes, tmp_path)


def test_scales_follow_patterns_as_in_peft(tmp_path):
    *_, places, params = case("bert", "lora", ("query", "value"))
    adapter = peft.collect(places, {path: np.asarray(leaf) for path, leaf in flatten(params).items()}, "lora")
    peft.write(tmp_path, adapter, "BertModel")
    tree = json.loads((tmp_path / "adapter_config.json").read_text())
    patterns = {"layer\\.[1-5]\\..*query": 7, "value": 9}
    (tmp_path / "adapter_config.json").write_text(json.dumps(tree | {"alpha_pattern": patterns}))
    alphas = peft.read(tmp_path).alphas
    at = lambda layer, name: alphas[f"bert.encoder.layer.{layer}.attention.self.{name}"]
    assert (at(0, "query"), at(1, "query"), at(0, "value"), at(1, "value")) == (3, 7, 9, 9)


def test_magnitudes_of_a_fused_module_are_those_of_its_projections(tmp_path):
    plain, _, _, places, params = case("gpt2", "lora", ("query", "key", "value"))
    adapter = peft.collect(places, {path: np.asarray(leaf) for path, leaf in flatten(params).items()}, "lora")
    width = plain.module.config.embed.width
    magnitude = np.arange(3 * width, dtype=np.float32)
    tensors = {module: {**own, "lora_magnitude_vector": magnitude} for module, own in adapter.tensors.items()}
    fused = dataclasses.replace(adapter, method="dora", tensors=tensors)
    leaves = peft.load(fused, places, plain.shapes, plain.axes, tmp_path).leaves
    for number, name in enumerate(("query", "key", "value")):
        ours = leaves[f"stack/layers/attention/{name}/lora/magnitude"].reshape(2, width)
        np.testing.assert_array_equal(ours, [magnitude[number * width : (number + 1) * width]] * 2)


def test_factors_of_another_width_are_refused(tmp_path):
    plain, *_, places, params = case("bert", "ia3", ())
    adapter = peft.collect(places, {path: np.asarray(leaf) for path, leaf in flatten(params).items()}, "ia3")
    module = next(iter(adapter.tensors))
    wide = dataclasses.replace(adapter, tensors={**adapter.tensors, module: {"ia3_l": np.ones((99, 1), np.float32)}})
    with pytest.raises(InputError, match="for 99 features, and the base has 64; give the base"):
        peft.load(wide, places, plain.shapes, plain.axes, tmp_path)
