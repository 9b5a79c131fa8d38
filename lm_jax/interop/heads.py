"""Heads of tasks (sequence and token classification, question answering, choices), and the losses of the classes.

A table describes the head of a class as data (`Head`), from which its settings and its rules follow.
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
from lm_jax.models.task import TaskHeadConfig

# Label of tokens that have no loss.
IGNORED = -100
# Suffixes of class names.
ANSWERS, TOKENS = "ForQuestionAnswering", "ForTokenClassification"
SEQUENCES, CHOICES, DETECTION = "ForSequenceClassification", "ForMultipleChoice", "ForPreTraining"

# Classes whose logits predict the next token; XLNet's predict its target tokens.
SHIFTED = re.compile(r"CausalLM$|(?<!XLNet)LMHeadModel$")

Arrays = dict[str, Any]


# Fields of config.json in order of preference, then a number.
Rates = tuple[str | float, ...]
# Those of them that are also the rates of the layers.
_OF_LAYERS = ("dropout", "hidden_dropout", "hidden_dropout_prob")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """A head as data: optionally a dense layer, an activation and a norm, then a projection to classes.

    Attributes:
      out: name of the projection to classes in a checkpoint; empty: none, as in the pooler of a bare model.
      bias, dense_bias, norm_bias: whether the projection, the dense layer and the norm have a bias.
      dense: name of the dense layer; empty: none.
      activation: after the dense layer, or on the hidden states without one; empty: none.
      norm: name of the norm after the activation; empty: none.
      epsilon: added to the variance in the norm.
      pick: hidden states that the head reads: `all`, or one per row: the `first`, `last` or `mean` without padding, the
        `final` or `average` with padding, or that at the `end`-of-text token of the encoder's input.
      dropout, dense_dropout: where the rates before the projection and before the dense layer come from: fields of
        config.json in order of preference, and the rate if the file has none of them; empty: no dropout.
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
    dropout: Rates = ()
    dense_dropout: Rates = ()
    prefix: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Prefixes of the head's own tensors."""
        return tuple(f"{name}." for name in (self.out, self.dense, self.norm) if name)

    def settings(self, tree: Mapping[str, Any], classes: int = 0) -> TaskHeadConfig:
        """The settings of this head for a config.json; without classes, for the tasks of later runs."""
        return TaskHeadConfig(
            classes=classes,
            pool=_POOLS.get(self.pick, self.pick),
            dense=bool(self.dense),
            dense_bias=self.dense_bias,
            activation=self.activation,
            norm=bool(self.norm),
            norm_bias=self.norm_bias,
            epsilon=self.epsilon,
            bias=self.bias,
            dropout=_rate(self.dropout, tree),
            dense_dropout=_rate(self.dense_dropout, tree),
        )

    def rates(self, task: TaskHeadConfig) -> dict[str, float]:
        """The fields of config.json for the dropout of a head; those of the layers keep their values."""
        pairs = ((self.dense_dropout[:1], task.dense_dropout), (self.dropout[:1], task.dropout))
        return {str(field): rate for fields, rate in pairs for field in fields if field not in _OF_LAYERS}


def _rate(rates: Rates, tree: Mapping[str, Any]) -> float:
    values = (tree.get(rate) if isinstance(rate, str) else rate for rate in rates)
    return next((float(value) for value in values if value is not None), 0.0)


# Our names of the hidden states: in our rows, a text ends with its last token, and padding counts for nothing.
_POOLS = {"final": "last", "end": "last", "average": "mean"}

# Heads by suffix of the class; functions of config.json where its fields decide.
Heads = Mapping[str, Head | Callable[[Mapping[str, Any]], Head]]

# Dropout before the projections of BERT and its relatives, and of decoders' token classifiers.
BERT_DROPOUT: Rates = ("classifier_dropout", "hidden_dropout_prob", 0.1)
_TOKENS_DROPOUT: Rates = ("classifier_dropout", "hidden_dropout", 0.1)
_ANSWERS = Head(out="qa_outputs")
# Decoders classify sequences by their last token.
SCORED: Heads = {
    SEQUENCES: Head(out="score", bias=False, pick="last"),
    TOKENS: Head(out="score", dropout=_TOKENS_DROPOUT),
    ANSWERS: _ANSWERS,
}
CLASSIFIED: Heads = {**SCORED, TOKENS: Head(out="classifier", dropout=_TOKENS_DROPOUT)}
# For decoders whose classes do not classify tokens.
UNTAGGED: Heads = {name: SCORED[name] for name in (SEQUENCES, ANSWERS)}
# Encoder-decoders classify by the decoder's hidden state at the end of the text.
END_CLASSIFIER = Head(
    out="classification_head.out_proj",
    dense="classification_head.dense",
    activation="tanh",
    pick="end",
    dropout=("classifier_dropout", 0.0),
    dense_dropout=("classifier_dropout", 0.0),
)
# For encoders.
ENCODED: Heads = {TOKENS: Head(out="classifier", dropout=BERT_DROPOUT), ANSWERS: _ANSWERS}


def pooler(dense: str) -> Head:
    """The pooler of a bare model: a dense layer with tanh on the first token."""
    return Head(out="", dense=dense, activation="tanh", pick="first")


def on_pooler(pooler: Head, out: str = "classifier", dropout: Rates = BERT_DROPOUT) -> dict[str, Head]:
    """The classifiers of sequences and of choices that read a pooler."""
    head = dataclasses.replace(pooler, out=out, dropout=dropout)
    return {SEQUENCES: head, CHOICES: head}


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


def fixed_classes(architecture: str) -> int:
    """The logits per hidden state of a class that has no labels: start and end of an answer, or a score; else 0."""
    return 2 if ANSWERS in architecture else 1 if architecture.endswith(CHOICES) else 0


def of(heads: Heads, architecture: str, tree: Mapping[str, Any]) -> Head | None:
    """The head of a class; None if the table has none for it."""
    head = heads.get(suffix(architecture))
    return head(tree) if callable(head) else head


def rules(head: Head | None) -> Rules:
    """Rules of the head's parameters."""
    if head is None:
        return []
    head_rules = dense("task/dense", head.dense, bias=head.dense_bias) if head.dense else []
    head_rules += norm("task/norm", head.norm, NormConfig(bias=head.norm_bias)) if head.norm else []
    return head_rules + (dense("task/out", head.out, bias=head.bias) if head.out else [])


def read(pick: str, inputs: Arrays, tree: Mapping[str, Any]) -> Any:
    """1 at the tokens among which a head chooses those that it reads, 0 elsewhere: [batch length]."""
    ids = inputs["input_ids"]
    if pick == "mean" and "attention_mask" in inputs:
        return inputs["attention_mask"]
    # As in the reference, the ids decide and not the mask; without a padding token, the last position is read.
    pad, end = tree.get("pad_token_id"), tree.get("eos_token_id")
    if pick == "end":
        return (ids == end).astype(jnp.int32)
    return (ids != pad).astype(jnp.int32) if pick == "last" and pad is not None else jnp.ones_like(ids)


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
