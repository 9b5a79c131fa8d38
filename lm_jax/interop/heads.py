"""Heads that our models lack (sequence and token classification, question answering), and the losses of the classes.

A table describes the head of a class as data (`Head`), from which its rules and logits follow.
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

# Label of tokens that have no loss.
IGNORED = -100
# Suffixes of class names.
ANSWERS, TOKENS = "ForQuestionAnswering", "ForTokenClassification"
SEQUENCES, DETECTION = "ForSequenceClassification", "ForPreTraining"

# Classes whose logits predict the next token; XLNet's predict its target tokens.
SHIFTED = re.compile(r"CausalLM$|(?<!XLNet)LMHeadModel$")

Arrays = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """A head as data: optionally a dense layer, an activation and a norm, then a projection to classes.

    Attributes:
      out: name of the projection to classes in a checkpoint.
      bias, dense_bias, norm_bias: whether the projection, the dense layer and the norm have a bias.
      dense: name of the dense layer; empty: none.
      activation: after the dense layer, or on the hidden states without one; empty: none.
      norm: name of the norm after the activation; empty: none.
      epsilon: added to the variance in the norm.
      pick: hidden states that the head reads: `all`, or one per row: the `first`, `last` or `mean` without padding, the
        `final` or `average` with padding, or that at the `end`-of-text token of the encoder's input.
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


# Heads by suffix of the class; functions of config.json where its fields decide.
Heads = Mapping[str, Head | Callable[[Mapping[str, Any]], Head]]

_ANSWERS = Head(out="qa_outputs")
# Decoders classify sequences by their last token.
SCORED: Heads = {SEQUENCES: Head(out="score", bias=False, pick="last"), TOKENS: Head(out="score"), ANSWERS: _ANSWERS}
CLASSIFIED: Heads = {**SCORED, TOKENS: Head(out="classifier")}
# Encoder-decoders classify by the decoder's hidden state at the end of the text.
END_CLASSIFIER = Head(
    out="classification_head.out_proj", dense="classification_head.dense", activation="tanh", pick="end"
)
# For encoders, whose models have a sequence classifier (`pair`).
ENCODED: Heads = {TOKENS: Head(out="classifier"), ANSWERS: _ANSWERS}


def suffix(architecture: str) -> str:
    """The suffix of a class: `ForTokenClassification` of `BertForTokenClassification`."""
    match = re.search(r"For[A-Z]\w+$", architecture)
    return match[0] if match else ""


def stem(architecture: str) -> str:
    """The stem of a class: `Bert` of `BertForTokenClassification`."""
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
    head_rules = dense("extra/dense", head.dense, bias=head.dense_bias) if head.dense else []
    head_rules += norm("extra/norm", head.norm, NormConfig(bias=head.norm_bias)) if head.norm else []
    return head_rules + dense("extra/out", head.out, bias=head.bias)


def logits(head: Head, extra: Arrays, last: Any, inputs: Arrays, tree: Mapping[str, Any]) -> Any:
    """Logits of a head, from the last hidden states [batch length embed]."""
    x = _pick(head.pick, last, inputs, tree)
    if head.dense:
        x = _affine(extra, "dense", x)
    x = ACTIVATIONS[head.activation](x) if head.activation else x
    if head.norm:
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + head.epsilon) * _expand(extra["extra/norm/scale"], x)
        x = x + _expand(extra["extra/norm/bias"], x) if head.norm_bias else x
    return _affine(extra, "out", x)


_PICKS: dict[str, Callable[[Any], Any]] = {
    "all": lambda last: last,
    "first": lambda last: last[:, 0],
    "final": lambda last: last[:, -1],
    "average": lambda last: last.mean(1),
}


def _pick(pick: str, last: Any, inputs: Arrays, tree: Mapping[str, Any]) -> Any:
    ids = inputs["input_ids"]
    if pick in _PICKS:
        return _PICKS[pick](last)
    if pick == "mean":
        mask = inputs.get("attention_mask", jnp.ones_like(ids))[..., None]
        return (last * mask).sum(1) / mask.sum(1)
    # As in the reference, the ids decide and not the mask; without a padding token, the last position is read.
    pad, end = tree.get("pad_token_id"), tree.get("eos_token_id")
    candidates = ids == end if pick == "end" else jnp.ones_like(ids) if pad is None else ids != pad
    positions = (jnp.arange(ids.shape[1])[None] * candidates).argmax(-1)
    return jnp.take_along_axis(last, positions[:, None, None], 1)[:, 0]


def _expand(vector: Any, like: Any) -> Any:
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


def _affine(extra: Arrays, name: str, x: Any) -> Any:
    y = x @ extra[f"extra/{name}/kernel"]
    bias = extra.get(f"extra/{name}/bias")
    return y if bias is None else y + _expand(bias, y)


def pooled(extra: Arrays, last: Any, activation: str = "tanh") -> Any:
    """Applies the pooler to the first hidden state of each row."""
    return ACTIVATIONS[activation](_affine(extra, "pooler", last[:, 0]))


def loss(architecture: str, outputs: Arrays, inputs: Arrays, tree: Mapping[str, Any], smoothing: float = 0.0) -> Any:
    """The loss that a class's `forward` returns, with label smoothing; None without labels."""
    labels, kind = inputs.get("labels"), suffix(architecture)
    if "start_logits" in outputs and "start_positions" in inputs:
        pairs = [(outputs[f"{end}_logits"], inputs[f"{end}_positions"]) for end in ("start", "end")]
        # Answers beyond the input are ignored.
        losses = [_cross_entropy(scores, jnp.where(at < scores.shape[1], at.clip(0), IGNORED)) for scores, at in pairs]
        return sum(losses) / 2
    if labels is None:
        return None
    if kind == DETECTION and "pair" not in outputs:
        mask = inputs.get("attention_mask", jnp.ones_like(labels))
        return (_binary_cross_entropy(outputs["logits"], labels) * mask).sum() / mask.sum()
    if kind == SEQUENCES:
        return _sequence_loss(outputs["logits"], labels, tree)
    if kind == "ForNextSentencePrediction":
        return _cross_entropy(outputs["pair"], labels)
    if SHIFTED.search(architecture):
        balance = tree.get("router_aux_loss_coef", 0.001) * outputs["aux_loss"] if "aux_loss" in outputs else 0.0
        return _cross_entropy(outputs["logits"][:, :-1], labels[:, 1:]) + balance
    value = _cross_entropy(outputs["logits"], labels, smoothing)
    for name in ("next_sentence_label", "sentence_order_label"):
        if name in inputs and "pair" in outputs:
            value = value + _cross_entropy(outputs["pair"], inputs[name])
    return value


def _sequence_loss(scores: Any, labels: Any, tree: Mapping[str, Any]) -> Any:
    """The loss of a sequence classifier: regression, single-label or multi-label classification."""
    integer = jnp.issubdtype(labels.dtype, jnp.integer)
    guess = "regression" if scores.shape[-1] == 1 else "single_label_classification" if integer else "multi_label"
    problem = tree.get("problem_type") or guess
    if problem == "regression":
        return jnp.square(scores.reshape(labels.shape) - labels).mean()
    if problem == "single_label_classification":
        return _cross_entropy(scores, labels)
    return _binary_cross_entropy(scores, labels).mean()


def _binary_cross_entropy(scores: Any, labels: Any) -> Any:
    return jax.nn.softplus(scores) - scores * labels.astype(jnp.float32)


def _cross_entropy(scores: Any, labels: Any, smoothing: float = 0.0) -> Any:
    """Mean over the labels that are not ignored, with label smoothing as in Szegedy et al. 2016, section 7."""
    counts, logs = labels != IGNORED, jax.nn.log_softmax(scores)
    picked = jnp.take_along_axis(logs, jnp.where(counts, labels, 0)[..., None], -1)[..., 0]
    if smoothing:
        picked = (1 - smoothing) * picked + smoothing * logs.mean(-1)
    return -(picked * counts).sum() / counts.sum()
