"""PEFT directories of learned tokens: written and read back, in the order of features that their classes have."""

import json

import jax
import numpy as np
import pytest
import tiny

from lm_jax.adapt import AdaptConfig, adapt
from lm_jax.core.config import InputError
from lm_jax.core.trees import flatten
from lm_jax.interop import choice, huggingface, peft, peft_files, peft_prompts, safetensors
from lm_jax.models.model import build_model
from lm_jax.models.prompts import PREFIX


def learned(preset, method):
    """A small model, the places of its projections, and random learned tokens by path."""
    config = tiny.config(preset, over=tiny.everywhere(preset, depth=2))
    plain = build_model(config, config.embed.vocab)
    tree = choice.tree_for(plain.module.config)
    rules = huggingface.family_of(tree).rules(plain.module.config, tree["architectures"][0], tree)
    places = peft.places(rules, plain.module.config, plain.shapes, plain.axes)
    model = adapt(plain, AdaptConfig(method=method, tokens=3))
    leaves = flatten(tiny.random_params(model.shapes))
    return plain, places, {path: np.asarray(leaf) for path, leaf in leaves.items() if model.trainable(path)}


@pytest.mark.parametrize(
    ("preset", "method"), [("gpt2", "prompt"), ("t5", "prompt"), ("gpt2", "prefix"), ("llama", "prefix")]
)
def test_what_is_written_is_read_back(preset, method, tmp_path):
    plain, places, leaves = learned(preset, method)
    peft_prompts.write(tmp_path, leaves, places, "GPT2LMHeadModel")
    loaded = peft_prompts.load(tmp_path, plain.module.config, places, plain.shapes)
    assert loaded.settings == {"method": method, "tokens": 3}
    jax.tree.map(np.testing.assert_array_equal, loaded.leaves, leaves)


def test_a_prefix_has_the_keys_and_values_of_all_layers_in_a_row(tmp_path):
    _, places, leaves = learned("llama", "prefix")
    peft_prompts.write(tmp_path, leaves, places, "LlamaForCausalLM")
    tree = json.loads((tmp_path / peft_files.CONFIG).read_text())
    stored = safetensors.header(tmp_path / peft_files.WEIGHTS)[peft_prompts.TENSOR].read()
    key, value = (leaves[f"stack/layers/attention/{PREFIX}/{name}"] for name in ("key", "value"))
    _, tokens, heads, width = key.shape
    # As PEFT reads it: [tokens, layers, key or value, heads, features].
    parts = np.asarray(stored).reshape(tokens, 2, 2, heads, width)
    np.testing.assert_array_equal(parts[:, 1, 1], value[1])
    assert {*parts[0, 0, 0, 0]} == {*key[0, 0, 0]}
    sizes = {"num_layers": 2, "num_attention_heads": heads, "token_dim": heads * width, "num_virtual_tokens": 3}
    assert tree == tree | sizes | {"peft_type": "PREFIX_TUNING", "task_type": "CAUSAL_LM"}


@pytest.mark.parametrize(
    ("preset", "method", "has_task", "message"),
    [
        ("gpt2", "prompt", True, "has the head of a task, which PEFT lets read"),
        ("bert", "prompt", False, "is an encoder, whose prompt PEFT does not have"),
        ("t5", "prefix", False, "is an encoder-decoder, whose prefix PEFT does not have"),
        ("gemma", "prompt", False, "scales its embeddings"),
    ],
)
def test_models_with_another_meaning_of_learned_tokens_are_refused(preset, method, has_task, message):
    with pytest.raises(InputError, match=message):
        peft_prompts.check(tiny.config(preset), method, has_task)


def test_directories_of_another_base_or_kind_are_refused(tmp_path):
    _, places, leaves = learned("gpt2", "prompt")
    other, others, _ = learned("llama", "prompt")
    narrow = {path: leaf[:, :-1] for path, leaf in leaves.items()}
    peft_prompts.write(tmp_path, narrow, places, "GPT2LMHeadModel")
    with pytest.raises(InputError, match=r"has prompt_embeddings \[3, .*; give the base that it was trained on"):
        peft_prompts.load(tmp_path, other.module.config, others, other.shapes)
    tree = json.loads((tmp_path / peft_files.CONFIG).read_text()) | {"peft_type": "PREFIX_TUNING"}
    (tmp_path / peft_files.CONFIG).write_text(json.dumps(tree))
    with pytest.raises(InputError, match=r"the base expects \[tokens, "):
        peft_prompts.load(tmp_path, other.module.config, others, other.shapes)
    (tmp_path / peft_files.CONFIG).write_text(json.dumps(tree | {"prefix_projection": True}))
    with pytest.raises(InputError, match="prefix_projection=True, which changes the adapter's function"):
        peft_prompts.load(tmp_path, other.module.config, others, other.shapes)
