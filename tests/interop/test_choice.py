"""A model that was not imported is exported as the first family that computes the same function."""

import dataclasses

import pytest
import tiny

from lm_jax.core.config import InputError
from lm_jax.interop import choice, huggingface
from lm_jax.interop.choice import function_of
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import TABLES
from lm_jax.models.config import AttentionConfig

# The family and class that a preset is exported as. mT5 is T5 v1.1 with another vocabulary, so it has the same class.
CLASSES = {
    "bert": ("bert", "BertForPreTraining"),
    "roberta": ("roberta", "RobertaForMaskedLM"),
    "albert": ("albert", "AlbertForPreTraining"),
    "distilbert": ("distilbert", "DistilBertForMaskedLM"),
    "electra": ("electra", "ElectraModel"),
    "electra_generator": ("electra", "ElectraForMaskedLM"),
    "modernbert": ("modernbert", "ModernBertForMaskedLM"),
    "deberta": ("deberta-v2", "DebertaV2ForMaskedLM"),
    "xlnet": ("xlnet", "XLNetLMHeadModel"),
    "gpt2": ("gpt2", "GPT2LMHeadModel"),
    "llama": ("llama", "LlamaForCausalLM"),
    "t5": ("t5", "T5ForConditionalGeneration"),
    "t5_v1_0": ("t5", "T5ForConditionalGeneration"),
    "mt5": ("t5", "T5ForConditionalGeneration"),
    "umt5": ("umt5", "UMT5ForConditionalGeneration"),
    "bart": ("bart", "BartForConditionalGeneration"),
    "marian": ("marian", "MarianMTModel"),
    "pegasus": ("pegasus", "PegasusForConditionalGeneration"),
}
# Models that differ from a family in one setting.
OTHERS = {
    "BERT without token types, unlike DistilBERT": ("bert", {"embed.types": 0}),
    "RoBERTa without a row before position 0": ("roberta", {"embed.offset": 0, "embed.types": 0}),
    "ALBERT whose tables are as wide as its layers": ("albert", {"embed.factor": None}),
    "DistilBERT with another epsilon": ("distilbert", {"norm.epsilon": 1e-6}),
    "ELECTRA with a window": ("electra", {"stack.block.attention.window": 4}),
    "ModernBERT with a global second layer": ("modernbert", {"stack.pattern": ("first", "block", "local")}),
    "BART with an untied readout": ("bart", {"readout.tied": False}),
    "Marian with interleaved sinusoids": ("marian", {"embed.positions": "sinusoidal_interleaved"}),
    "Pegasus without final norms": ("pegasus", {"final_norm": False}),
    "UMT5 with layer norm": ("umt5", {"norm.name": "layer"}),
}


def read_back(tree, tensors=()):
    """Reads a config.json by the table of its family."""
    family = huggingface.family_of(tree)
    return family.config(Settings(tree, tensors, "config.json", family.heads))


@pytest.mark.parametrize("preset", CLASSES)
def test_a_preset_is_exported_as_its_own_class(preset):
    tree = choice.tree_for(tiny.config(preset))
    assert (tree["model_type"], *tree["architectures"]) == CLASSES[preset]


@pytest.mark.parametrize("preset", CLASSES)
def test_exported_settings_are_read_back_as_the_same_function(preset):
    config = tiny.config(preset)
    family = TABLES[CLASSES[preset][0]]
    tree = family.settings(config)
    again = read_back(tree, tree.pop("tensors", ()))
    assert function_of(again) == function_of(config)
    assert tree == choice.tree_for(config)


@pytest.mark.parametrize("preset", ["gpt2", "roberta", "t5"])
def test_squared_relu_is_exported_under_its_name_in_transformers(preset):
    over = tiny.everywhere(preset, block__feedforward__activation="squared_relu")
    tree = choice.tree_for(tiny.config(preset, over=over))
    assert (tree["model_type"], *tree["architectures"]) == CLASSES[preset]
    assert [value for value in tree.values() if value in ("relu2", "gated-relu2")]


def test_mt5_writes_its_own_settings():
    config = tiny.config("mt5")
    tree = TABLES["mt5"].settings(config)
    tensors = tree.pop("tensors")
    assert tree["architectures"] == ["MT5ForConditionalGeneration"]
    assert function_of(read_back(tree, tensors)) == function_of(config)


@pytest.mark.parametrize("name", OTHERS)
def test_a_model_that_no_family_computes_is_refused_in_one_line(name):
    preset, over = OTHERS[name]
    with pytest.raises(InputError, match="no Hugging Face family computes") as error:
        choice.tree_for(tiny.config(preset, over=over))
    assert "\n" not in str(error.value)


def test_names_of_kinds_of_layers_do_not_change_the_function():
    config = tiny.config("modernbert")
    stack = config.stack
    names = {"first": "head", "local": "near", "block": "block"}
    kinds = type(stack.kinds)({names[name]: kind for name, kind in stack.kinds.items()})
    renamed = dataclasses.replace(stack, kinds=kinds, pattern=tuple(names[name] for name in stack.pattern))
    assert function_of(dataclasses.replace(config, stack=renamed)) == function_of(config)
    shorter = dataclasses.replace(stack, pattern=(*stack.pattern[:-1], "block"))
    assert function_of(dataclasses.replace(config, stack=shorter)) != function_of(config)


def test_how_attention_is_trained_does_not_change_the_function():
    trained = AttentionConfig(dropout=0.1, dropout_on="output", kernel="splash")
    assert function_of(trained, 64) == function_of(AttentionConfig(), 64)
