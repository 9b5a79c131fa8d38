"""A family or class that config.json leaves out is inferred from the tensors if they fit only one."""

import json

import pytest

from lm_jax.core.config import InputError
from lm_jax.interop import guess, safetensors
from lm_jax.interop.tables import TABLES


@pytest.fixture(scope="module", params=["gpt2", "bert"])
def golden(repository, request):
    """config.json, tensors and class of a small checkpoint."""
    folder = repository / "tests" / "golden" / f"huggingface_{request.param}"
    tree = json.loads((folder / "config.json").read_text())
    return tree, safetensors.entries(folder), tree["architectures"][0]


def bert(repository):
    folder = repository / "tests" / "golden" / "huggingface_bert"
    return json.loads((folder / "config.json").read_text()), safetensors.entries(folder)


def without(tree, *names):
    return {name: value for name, value in tree.items() if name not in names}


def test_every_family_of_the_reference_names_its_classes():
    assert [family for family in TABLES if not guess.classes(family)] == ["transformer2017"]


@pytest.mark.parametrize("lacking", [("architectures",), ("model_type", "architectures")])
def test_family_and_class_are_inferred_from_the_tensors(golden, lacking):
    tree, stored, architecture = golden
    again, notes = guess.complete(without(tree, *lacking), stored, "config.json")
    assert (again["model_type"], again["architectures"]) == (tree["model_type"], [architecture])
    (note,) = notes
    assert f"inferred from the tensors: {architecture}" in note and "--hf.architectures=..." in note


@pytest.mark.parametrize("nothing", [None, [], [None]])
def test_a_null_class_is_inferred(golden, nothing):
    tree, stored, architecture = golden
    again, _ = guess.complete({**tree, "architectures": nothing}, stored, "config.json")
    assert again["architectures"] == [architecture]


def test_a_class_in_the_file_is_not_guessed(golden):
    tree, stored, architecture = golden
    assert guess.complete(tree, stored, "config.json") == (tree, ())
    assert guess.complete({**tree, "architectures": architecture}, stored, "config.json") == (tree, ())


def test_the_family_is_inferred_from_the_class(golden):
    tree, stored, _ = golden
    again, (note,) = guess.complete(without(tree, "model_type"), stored, "config.json")
    assert again["model_type"] == tree["model_type"] and "--hf.model_type=..." in note


def test_the_case_of_a_family_does_not_matter(golden):
    tree, stored, _ = golden
    again, (note,) = guess.complete({**tree, "model_type": tree["model_type"].upper()}, stored, "config.json")
    assert again == tree and tree["model_type"] in note


def test_tensors_of_several_families_are_listed_with_the_flag(repository):
    tree, stored = bert(repository)
    bare = {name.removeprefix("bert."): at for name, at in stored.items() if name.startswith("bert.")}
    with pytest.raises(InputError, match=r"BertModel \(bert\), RobertaModel.*--hf\.model_type=bert") as error:
        guess.complete(without(tree, "model_type", "architectures"), bare, "config.json")
    assert "\n" not in str(error.value)
    again, _ = guess.complete(without(tree, "architectures"), bare, "config.json")
    assert again["architectures"] == ["BertModel"]


def test_classes_with_the_same_tensors_and_different_functions_are_listed(repository):
    tree, stored = bert(repository)
    head = {f"classifier.{leaf}": stored[f"cls.seq_relationship.{leaf}"] for leaf in ("weight", "bias")}
    body = {name: at for name, at in stored.items() if name.startswith("bert.")}
    with pytest.raises(InputError, match="BertForSequenceClassification.*BertForTokenClassification"):
        guess.complete(without(tree, "architectures"), body | head, "config.json")


def test_masked_language_models_are_recognised_with_and_without_a_pair_head(repository):
    tree, stored = bert(repository)
    alone = {name: at for name, at in stored.items() if "seq_relationship" not in name and "pooler" not in name}
    again, _ = guess.complete(without(tree, "architectures"), alone, "config.json")
    assert again["architectures"] == ["BertForMaskedLM"]
    again, _ = guess.complete({**without(tree, "architectures"), "is_decoder": True}, alone, "config.json")
    assert again["architectures"] == ["BertLMHeadModel"]


def test_tensors_of_no_family_are_refused_in_one_line(repository):
    tree, stored = bert(repository)
    odd = {f"tower.{name}": at for name, at in stored.items()}
    with pytest.raises(InputError, match=r"no model_type and architectures.*--hf\.model_type"):
        guess.complete(without(tree, "model_type", "architectures"), odd, "config.json")
