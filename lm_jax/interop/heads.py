"""Heads that our models lack: classification of sequences and of tokens, question answering, and the classes' losses.

A table names the matrices of a class (`Head`); its rules, logits and loss follow from that.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lm_jax.interop.rules import Rules, dense, norm
from lm_jax.models.config import NormConfig
from lm_jax.models.feedforward.dense import ACTIVATIONS

# The label of tokens without a loss.
IGNORED = -100
# Suffixes of class names.
ANSWERS, TOKENS = "ForQuestionAnswering", "ForTokenClassification"
ROWS, DETECTS = "ForSequenceClassification", "ForPreTraining"

# Classes whose logits predict the next token; XLNet's predict its target tokens.
SHIFTED = re.compile(r"CausalLM$|(?<!XLNet)LMHeadModel$")

Arrays = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """A head as data: optionally a dense layer, an activation and a norm, then a projection to classes.

    Attributes:
      out: name of the projection to classes in a checkpoint.
      bias: whether the projection has a bias.
      dense: name of the dense layer; empty: none.
      dense_bias: whether the dense layer has a bias.
      activation: after the dense layer, or on the hidden states without one; empty: none.
      norm: name of the norm after the activation; empty: none.
      norm_bias: whether the norm has a bias.
      epsilon: of the norm.
      pick: hidden states that the head reads: `all`; of each row the `first`, the `last` or the `mean` without padding,
        the one at the `end`-of-text token of the encoder's input; or the `final` or the `average`, padding included.
      prefix: prefix of the model's tensors in this class; None: as in the family's other classes.
    """

    out: str
    bias: bool = True
    dense: str = ""
    dense_bias: bool = True
    activation: str = ""
    norm: str = ""
    norm_bias: bool = True
    epsilon: float = 1e-5
    pick: str = "all"
    prefix: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Prefixes of the head's own tensors."""
        return tuple(f"{name}." for name in (self.out, self.dense, self.norm) if name)


# By suffix of the class; a function of config.json where the class's settings decide.
Heads = Mapping[str, Head | Callable[[Mapping[str, Any]], Head]]

_ANSWERS = Head(out="qa_outputs")
# Decoders classify sequences by their last token.
SCORED: Heads = {ROWS: Head(out="score", bias=False, pick="last"), TOKENS: Head(out="score"), ANSWERS: _ANSWERS}
CLASSIFIED: Heads = {**SCORED, TOKENS: Head(out="classifier")}
# Encoder-decoders classify by the decoder's hidden state at the end of the text.
ENDED = Head(out="classification_head.out_proj", dense="classification_head.dense", activation="tanh", pick="end")
# Encoders whose models have a sequence classifier of their own.
ENCODED: Heads = {TOKENS: Head(out="classifier"), ANSWERS: _ANSWERS}


def suffix(architecture: str) -> str:
    """`ForTokenClassification` of `BertForTokenClassification`."""
    match = re.search(r"For[A-Z]\w+$", architecture)
    return match[0] if match else ""


def stem(architecture: str) -> str:
    """`Bert` of `BertForTokenClassification`."""
    return re.sub(r"(For[A-Z]\w+|LMHeadModel|MTModel|Model)$", "", architecture)


def bare(architecture: str) -> bool:
    """Whether a class is the model alone, without a head."""
    return re.search(r"(?<!LMHead)(?<!MT)Model$", architecture) is not None


def of(heads: Heads, architecture: str, tree: Mapping[str, Any]) -> Head | None:
    """The head of a class; None if the table has none for it."""
    head = heads.get(suffix(architecture))
    return head(tree) if callable(head) else head


def rules(head: Head | None) -> Rules:
    """Rules of the head's parameters, whose paths begin with `extra/`."""
    if head is None:
        return []
    listed = dense("extra/dense", head.dense, bias=head.dense_bias) if head.dense else []
    listed += norm("extra/norm", head.norm, NormConfig(bias=head.norm_bias)) if head.norm else []
    return listed + dense("extra/out", head.out, bias=head.bias)


def logits(head: Head, extra: Arrays, last: Any, inputs: Arrays, tree: Mapping[str, Any]) -> Any:
    """Logits of a head, from the last hidden states [batch length embed]."""
    x = _picked(head.pick, last, inputs, tree)
    if head.dense:
        x = _affine(extra, "dense", x)
    x = ACTIVATIONS[head.activation](x) if head.activation else x
    if head.norm:
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + head.epsilon) * _wide(extra["extra/norm/scale"], x)
        x = x + _wide(extra["extra/norm/bias"], x) if head.norm_bias else x
    return _affine(extra, "out", x)


_PICKS: dict[str, Callable[[Any], Any]] = {
    "all": lambda last: last,
    "first": lambda last: last[:, 0],
    "final": lambda last: last[:, -1],
    "average": lambda last: last.mean(1),
}


def _picked(pick: str, last: Any, inputs: Arrays, tree: Mapping[str, Any]) -> Any:
    ids = inputs["input_ids"]
    if pick in _PICKS:
        return _PICKS[pick](last)
    if pick == "mean":
        mask = inputs.get("attention_mask", jnp.ones_like(ids))[..., None]
        return (last * mask).sum(1) / mask.sum(1)
    # As in the reference, ids decide and not the mask; without a padding token it is the last position.
    pad, end = tree.get("pad_token_id"), tree.get("eos_token_id")
    candidates = ids == end if pick == "end" else jnp.ones_like(ids) if pad is None else ids != pad
    places = (jnp.arange(ids.shape[1])[None] * candidates).argmax(-1)
    return jnp.take_along_axis(last, places[:, None, None], 1)[:, 0]


def _wide(vector: Any, like: Any) -> Any:
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


def _affine(extra: Arrays, name: str, x: Any) -> Any:
    y = x @ extra[f"extra/{name}/kernel"]
    bias = extra.get(f"extra/{name}/bias")
    return y if bias is None else y + _wide(bias, y)


def pooled(extra: Arrays, last: Any, activation: str = "tanh") -> Any:
    """Applies a pooler to the first hidden state of each row."""
    return ACTIVATIONS[activation](_affine(extra, "pooler", last[:, 0]))


def loss(architecture: str, outputs: Arrays, inputs: Arrays, tree: Mapping[str, Any], smoothing: float = 0.0) -> Any:
    """The loss that a class's `forward` returns, with label smoothing; None without labels."""
    labels, kind = inputs.get("labels"), suffix(architecture)
    if "start_logits" in outputs and "start_positions" in inputs:
        ends = [(outputs[f"{end}_logits"], inputs[f"{end}_positions"]) for end in ("start", "end")]
        # Answers beyond the input are ignored.
        losses = [_cross_entropy(scores, jnp.where(at < scores.shape[1], at.clip(0), IGNORED)) for scores, at in ends]
        return sum(losses) / 2
    if labels is None:
        return None
    if kind == DETECTS and "pair" not in outputs:
        mask = inputs.get("attention_mask", jnp.ones_like(labels))
        return (_binary(outputs["logits"], labels) * mask).sum() / mask.sum()
    if kind == ROWS:
        return _sequence_loss(outputs["logits"], labels, tree)
    if kind == "ForNextSentencePrediction":
        return _cross_entropy(outputs["pair"], labels)
    if SHIFTED.search(architecture):
        balance = tree.get("router_aux_loss_coef", 0.001) * outputs["aux_loss"] if "aux_loss" in outputs else 0.0
        return _cross_entropy(outputs["logits"][:, :-1], labels[:, 1:]) + balance
    value = _cross_entropy(outputs["logits"], labels, smoothing)
    for other in ("next_sentence_label", "sentence_order_label"):
        if other in inputs and "pair" in outputs:
            value = value + _cross_entropy(outputs["pair"], inputs[other])
    return value


def _sequence_loss(scores: Any, labels: Any, tree: Mapping[str, Any]) -> Any:
    """The loss of a sequence classifier: regression, one class of several, or several classes at once."""
    integer = jnp.issubdtype(labels.dtype, jnp.integer)
    guess = "regression" if scores.shape[-1] == 1 else "single_label_classification" if integer else "multi_label"
    problem = tree.get("problem_type") or guess
    if problem == "regression":
        return jnp.square(scores.reshape(labels.shape) - labels).mean()
    if problem == "single_label_classification":
        return _cross_entropy(scores, labels)
    return _binary(scores, labels).mean()


def _binary(scores: Any, labels: Any) -> Any:
    return jax.nn.softplus(scores) - scores * labels.astype(jnp.float32)


def _cross_entropy(scores: Any, labels: Any, smoothing: float = 0.0) -> Any:
    """Mean over labels that are not ignored; label smoothing as in Szegedy et al. 2016, section 7."""
    counts, logs = labels != IGNORED, jax.nn.log_softmax(scores)
    picked = jnp.take_along_axis(logs, jnp.where(counts, labels, 0)[..., None], -1)[..., 0]
    if smoothing:
        picked = (1 - smoothing) * picked + smoothing * logs.mean(-1)
    return -(picked * counts).sum() / counts.sum()
