"""Heads of classes: the hidden states that they read, their losses, and the names of their tensors."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.interop import heads, naming
from lm_jax.interop.heads import ANSWERS, SEQUENCES, TOKENS, Head
from lm_jax.interop.safetensors import Entry
from lm_jax.interop.tables import TABLES, llama

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
    extra = {"extra/out/kernel": jnp.eye(3)}
    logits = heads.logits(Head(out="score", bias=False, pick=pick), extra, LAST, INPUTS, TREE)
    np.testing.assert_allclose(logits, jnp.stack(PICKED[pick]), rtol=1e-6)


def test_without_a_padding_token_the_last_position_is_read():
    extra = {"extra/out/kernel": jnp.eye(3)}
    logits = heads.logits(Head(out="score", bias=False, pick="last"), extra, LAST, INPUTS, {})
    np.testing.assert_array_equal(logits, LAST[:, -1])


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
