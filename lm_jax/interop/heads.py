"""What classes of theirs put on top of a model: classifiers of rows and of tokens, answers in a text, and their losses.

A table names a class's matrices (`Head`); the rules, the logits and the loss follow from that.
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

# Labels that do not count.
IGNORED = -100
# What follows the family in a class's name.
ANSWERS, TOKENS = "ForQuestionAnswering", "ForTokenClassification"
ROWS, DETECTS = "ForSequenceClassification", "ForPreTraining"

# Classes whose logits are of the next token; XLNet's are of the tokens that it was asked for.
SHIFTED = re.compile(r"CausalLM$|(?<!XLNet)LMHeadModel$")

Arrays = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """A head as data: perhaps a dense layer with its activation and norm, then a matrix to classes.

    Attributes:
      out: the matrix's name in a checkpoint.
      bias: whether it has one.
      dense: name of the layer before it; empty for none.
      dense_bias: whether that has a bias.
      activation: after that layer, or of what is picked; empty for none.
      norm: name of the norm after the activation; empty for none.
      norm_bias: whether that has a bias.
      epsilon: of that norm.
      pick: which hidden states it reads: `all`, the `first` of a row, its `last` that is not padding, the `mean` of
        those that are not, the one at the last `end` of text in what the encoder reads, or, padding or not, the
        `final` one or the `average`.
      prefix: what this class puts before the names of the model's tensors; None is as the family's other classes.
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
        """What the head's own tensors begin with."""
        return tuple(f"{name}." for name in (self.out, self.dense, self.norm) if name)


# Per class of a family, or, where the class's settings decide, a function of config.json.
Heads = Mapping[str, Head | Callable[[Mapping[str, Any]], Head]]

_ANSWERS = Head(out="qa_outputs")
# Decoders that classify: by the last token, or token by token.
SCORED: Heads = {ROWS: Head(out="score", bias=False, pick="last"), TOKENS: Head(out="score"), ANSWERS: _ANSWERS}
CLASSIFIED: Heads = {**SCORED, TOKENS: Head(out="classifier")}
# Encoder-decoders: by what the decoder makes of the end of the text.
ENDED = Head(out="classification_head.out_proj", dense="classification_head.dense", activation="tanh", pick="end")
# Encoders whose class for rows stands in the models themselves.
ENCODED: Heads = {TOKENS: Head(out="classifier"), ANSWERS: _ANSWERS}


def suffix(architecture: str) -> str:
    """`ForTokenClassification` of `BertForTokenClassification`."""
    found = re.search(r"For[A-Z]\w+$", architecture)
    return found[0] if found else ""


def stem(architecture: str) -> str:
    """`Bert` of `BertForTokenClassification`."""
    return re.sub(r"(For[A-Z]\w+|LMHeadModel|MTModel|Model)$", "", architecture)


def bare(architecture: str) -> bool:
    """Whether a class is the model alone, without a head."""
    return re.search(r"(?<!LMHead)(?<!MT)Model$", architecture) is not None


def of(heads: Heads, architecture: str, tree: Mapping[str, Any]) -> Head | None:
    """The head of a class, if the table has one for it."""
    found = heads.get(suffix(architecture))
    return found(tree) if callable(found) else found


def rules(head: Head | None) -> Rules:
    """Which tensor is which, under `extra/`."""
    if head is None:
        return []
    found = dense("extra/dense", head.dense, bias=head.dense_bias) if head.dense else []
    found += norm("extra/norm", head.norm, NormConfig(bias=head.norm_bias)) if head.norm else []
    return found + dense("extra/out", head.out, bias=head.bias)


def logits(head: Head, extra: Arrays, last: Any, given: Arrays, tree: Mapping[str, Any]) -> Any:
    """What a head says of the last hidden states [batch length embed]."""
    x = _picked(head.pick, last, given, tree)
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


def _picked(pick: str, last: Any, given: Arrays, tree: Mapping[str, Any]) -> Any:
    ids = given["input_ids"]
    if pick in _PICKS:
        return _PICKS[pick](last)
    if pick == "mean":
        mask = given.get("attention_mask", jnp.ones_like(ids))[..., None]
        return (last * mask).sum(1) / mask.sum(1)
    # The reference looks for tokens, not at the mask; without a padding token the last position is it.
    pad, end = tree.get("pad_token_id"), tree.get("eos_token_id")
    wanted = ids == end if pick == "end" else jnp.ones_like(ids) if pad is None else ids != pad
    places = (jnp.arange(ids.shape[1])[None] * wanted).argmax(-1)
    return jnp.take_along_axis(last, places[:, None, None], 1)[:, 0]


def _wide(vector: Any, like: Any) -> Any:
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


def _affine(extra: Arrays, part: str, x: Any) -> Any:
    y = x @ extra[f"extra/{part}/kernel"]
    bias = extra.get(f"extra/{part}/bias")
    return y if bias is None else y + _wide(bias, y)


def pooled(extra: Arrays, last: Any, activation: str = "tanh") -> Any:
    """What a pooler makes of the first hidden state."""
    return ACTIVATIONS[activation](_affine(extra, "pooler", last[:, 0]))


def loss(architecture: str, found: Arrays, given: Arrays, tree: Mapping[str, Any], smoothing: float = 0.0) -> Any:
    """The loss of a class, as its `forward` returns it; None without labels. `smoothing` is of its labels."""
    labels, kind = given.get("labels"), suffix(architecture)
    if "start_logits" in found and "start_positions" in given:
        ends = [(found[f"{end}_logits"], given[f"{end}_positions"]) for end in ("start", "end")]
        # Answers beyond the input do not count.
        parts = [_cross_entropy(one, jnp.where(at < one.shape[1], at.clip(0), IGNORED)) for one, at in ends]
        return sum(parts) / 2
    if labels is None:
        return None
    if kind == DETECTS and "pair" not in found:
        mask = given.get("attention_mask", jnp.ones_like(labels))
        return (_binary(found["logits"], labels) * mask).sum() / mask.sum()
    if kind == ROWS:
        return _classified(found["logits"], labels, tree)
    if kind == "ForNextSentencePrediction":
        return _cross_entropy(found["pair"], labels)
    if SHIFTED.search(architecture):
        balance = tree.get("router_aux_loss_coef", 0.001) * found["aux_loss"] if "aux_loss" in found else 0.0
        return _cross_entropy(found["logits"][:, :-1], labels[:, 1:]) + balance
    value = _cross_entropy(found["logits"], labels, smoothing)
    for other in ("next_sentence_label", "sentence_order_label"):
        if other in given and "pair" in found:
            value = value + _cross_entropy(found["pair"], given[other])
    return value


def _classified(scores: Any, labels: Any, tree: Mapping[str, Any]) -> Any:
    """Of rows: regression, one class of several, or several at once."""
    whole = jnp.issubdtype(labels.dtype, jnp.integer)
    guess = "regression" if scores.shape[-1] == 1 else "single_label_classification" if whole else "multi_label"
    problem = tree.get("problem_type") or guess
    if problem == "regression":
        return jnp.square(scores.reshape(labels.shape) - labels).mean()
    if problem == "single_label_classification":
        return _cross_entropy(scores, labels)
    return _binary(scores, labels).mean()


def _binary(scores: Any, labels: Any) -> Any:
    return jax.nn.softplus(scores) - scores * labels.astype(jnp.float32)


def _cross_entropy(scores: Any, labels: Any, smoothing: float = 0.0) -> Any:
    """The mean over labels that count; `smoothing` goes to all classes alike (Szegedy et al. 2016, section 7)."""
    counts, likely = labels != IGNORED, jax.nn.log_softmax(scores)
    picked = jnp.take_along_axis(likely, jnp.where(counts, labels, 0)[..., None], -1)[..., 0]
    if smoothing:
        picked = (1 - smoothing) * picked + smoothing * likely.mean(-1)
    return -(picked * counts).sum() / counts.sum()
