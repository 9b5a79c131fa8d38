"""Heads of classes: their settings, the hidden states that they read, their losses, and the names of their tensors."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.interop import heads, naming
from lm_jax.interop.heads import ANSWERS, CHOICES, SEQUENCES, TOKENS, Head
from lm_jax.interop.safetensors import Entry
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import TABLES, llama
from lm_jax.models.config import TaskHeadConfig
from lm_jax.models.pooling import pooled

LAST = jnp.float32(np.arange(2 * 4 * 3).reshape(2, 4, 3))
# The first row has padding (0) after its text, the second before it; 9 ends a text.
INPUTS = {
    "input_ids": jnp.array([[5, 9, 0, 0], [0, 6, 7, 9]]),
    "attention_mask": jnp.array([[1, 1, 0, 0], [0, 1, 1, 1]]),
}
TREE = {"pad_token_id": 0, "eos_token_id": 9}
PICKED = {
    "first": (LAST[0, 0], LAST[1, 0]),
    "last": (LAST[0, 1], LAST[1, 3]),
    "end": (LAST[0, 1], LAST[1, 3]),
    "mean": (LAST[0, :2].mean(0), LAST[1, 1:].mean(0)),
    "final": (LAST[0, 3], LAST[1, 3]),
    "average": (LAST[0].mean(0), LAST[1].mean(0)),
}


@pytest.mark.parametrize("pick", PICKED)
def test_a_head_reads_the_hidden_states_that_it_names(pick):
    states = pooled(LAST, heads.read(pick, INPUTS, TREE), Head(out="score", pick=pick).settings({}).pool)
    np.testing.assert_allclose(states, jnp.stack(PICKED[pick]), rtol=1e-6)


def test_without_a_padding_token_the_last_position_is_read():
    np.testing.assert_array_equal(pooled(LAST, heads.read("last", INPUTS, {}), "last"), LAST[:, -1])


def test_one_class_means_regression_and_float_labels_mean_several_classes_at_once():
    loss = lambda scores, labels, **tree: float(
        heads.loss(f"Llama{SEQUENCES}", {"logits": jnp.float32(scores)}, {"labels": jnp.asarray(labels)}, tree)
    )
    assert loss([[1.0], [3.0]], np.float32([0, 1])) == pytest.approx((1 + 4) / 2)
    assert loss([[0.0, 0.0]], np.array([1])) == pytest.approx(np.log(2))
    assert loss([[0.0, 0.0]], np.float32([[0, 1]])) == pytest.approx(np.log(2))
    assert loss([[1.0, 2.0]], np.float32([[0, 0]]), problem_type="regression") == pytest.approx(2.5)


def test_an_answer_beyond_the_text_is_ignored():
    outputs = {"start_logits": jnp.zeros((2, 4)), "end_logits": jnp.float32([[0, 9, 0, 0], [0, 0, 0, 0]])}
    inputs = {"start_positions": jnp.array([1, 7]), "end_positions": jnp.array([1, 7])}
    loss = heads.loss(f"Llama{ANSWERS}", outputs, inputs, {})
    end = -np.log(np.exp(9) / (np.exp(9) + 3))
    assert float(loss) == pytest.approx((np.log(4) + end) / 2)


@pytest.mark.parametrize(
    ("architecture", "name", "theirs"),
    [
        ("LlamaForCausalLM", "model.norm.weight", "model.norm.weight"),
        ("LlamaModel", "model.norm.weight", "norm.weight"),
        (f"Llama{ANSWERS}", "model.norm.weight", "transformer.norm.weight"),
        (f"Llama{ANSWERS}", "qa_outputs.weight", "qa_outputs.weight"),
        (f"Llama{TOKENS}", "model.norm.weight", "model.norm.weight"),
    ],
)
def test_each_class_has_its_own_tensor_names(architecture, name, theirs):
    head = heads.of(llama.HEADS, architecture, {})
    assert naming.their_name(name, TABLES["llama"], architecture, head) == theirs
    names = (theirs, "qa_outputs.bias", *(["transformer.embed_tokens.weight"] if ANSWERS in architecture else []))
    stored = dict.fromkeys(names, Entry(Path("file"), np.dtype(np.float32), (3,), 0))
    assert name in naming.to_table_names(stored, TABLES["llama"], {}, head)


def test_bare_models_are_recognised_by_the_name_of_their_class():
    names = ("BertModel", "MT5Model", "GPT2LMHeadModel", "MarianMTModel", "T5EncoderModel")
    assert [heads.bare(name) for name in names] == [True, True, False, False, True]


BERT = {"vocab_size": 32, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
BERT |= {"model_type": "bert", "max_position_embeddings": 16, "hidden_dropout_prob": 0.3}
POOLER = ("bert.pooler.dense.weight", "bert.pooler.dense.bias")


def task_of(architecture, tensors=(), **fields):
    """The head of a BERT's class."""
    family, tree = TABLES["bert"], {**BERT, "architectures": [architecture], **fields}
    return family.configure(Settings(tree, tensors, heads=family.heads)).task


def test_a_class_with_a_head_gives_the_models_head():
    classifier = task_of("BertForSequenceClassification", id2label={"0": "a", "1": "b", "2": "c"})
    expected = TaskHeadConfig(classes=3, pool="first", dense=True, activation="tanh", dropout=0.3)
    assert classifier == expected and classifier.exists
    assert task_of("BertForTokenClassification", classifier_dropout=0.0) == TaskHeadConfig(classes=2, pool="all")
    assert task_of("BertForQuestionAnswering", num_labels=7) == TaskHeadConfig(classes=2, pool="all")
    assert task_of("BertForMultipleChoice", num_labels=7).classes == 1


def test_a_class_without_a_head_has_the_settings_of_the_familys_classifier_and_no_parameters():
    classifier = TaskHeadConfig(pool="first", dense=True, activation="tanh", dropout=0.3)
    assert task_of("BertForMaskedLM") == task_of("BertModel") == classifier and not classifier.exists
    pooler = task_of("BertModel", POOLER)
    assert pooler.exists and (pooler.pooler, pooler.classes, pooler.dense) == (True, 0, True)


def test_a_head_of_all_tokens_is_a_projection_unless_the_family_has_more_layers():
    bert = task_of("BertForMaskedLM").per_token(5)
    assert bert == TaskHeadConfig(classes=5, pool="all", dropout=0.3)
    modern = {"model_type": "modernbert", "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
    modern |= {"vocab_size": 32, "num_hidden_layers": 1}
    family = TABLES["modernbert"]
    read = lambda name: family.configure(Settings({**modern, "architectures": [name]}, heads=family.heads)).task
    tagger = read(f"ModernBert{TOKENS}")
    assert read("ModernBertForMaskedLM").per_token(2) == dataclasses.replace(tagger, tokens=True)
    assert tagger.dense and tagger.norm and tagger.pool == "all"


def test_every_kind_of_head_has_its_own_rate_of_dropout_in_the_file():
    head = TABLES["albert"].head(f"Albert{CHOICES}", {})
    assert head.settings({}).dropout == 0.1 and head.settings({"classifier_dropout_prob": 0.4}).dropout == 0.4
    assert head.rates(TaskHeadConfig(dropout=0.2)) == {"classifier_dropout_prob": 0.2}
    # The rate of the layers stays as it is.
    assert TABLES["distilbert"].head(f"DistilBert{TOKENS}", {}).rates(TaskHeadConfig(dropout=0.2)) == {}
