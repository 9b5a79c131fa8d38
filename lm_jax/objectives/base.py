"""What a pretraining objective is: both halves of an idea, corruption on the host and loss on the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from lm_jax.core.config import InputError
from lm_jax.core.sums import Sum, Sums
from lm_jax.data.pipeline import KEYS
from lm_jax.data.rows import Reads
from lm_jax.models.heads import hits
from lm_jax.models.interface import Output
from lm_jax.models.model import Bound
from lm_jax.objectives.roles import Role

Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What an objective must know of a tokenizer.

    Attributes:
      size: ids are below this.
      pad, eos: ids; every tokenizer has them.
      bos, cls, sep, mask: ids, or None where the tokenizer has none; an objective that reads one asks `require`.
      sentinels: ids that stand for a removed span, first to last.
      ordinary: ids of pieces of text, [first, one past the last).
      start: id that the decoder of an encoder-decoder reads first; None is `pad`, as T5 has it.
      before, after: ids around every source of an encoder-decoder; nothing after it is EOS.
    """

    size: int
    pad: int
    eos: int
    bos: int | None = None
    cls: int | None = None
    sep: int | None = None
    mask: int | None = None
    sentinels: tuple[int, ...] = ()
    ordinary: tuple[int, int]
    start: int | None = None
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    @property
    def decoder_start(self) -> int:
        """The id that the decoder of an encoder-decoder reads first."""
        return self.pad if self.start is None else self.start

    @property
    def closing(self) -> tuple[int, ...]:
        """The ids after every source of an encoder-decoder."""
        return self.after or (self.eos,)

    def require(self, objective: str, *names: str) -> tuple[int, ...]:
        """The ids of special tokens that an objective cannot do without.

        Raises:
          InputError: the tokenizer does not have one of them.
        """
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            raise InputError(
                f"config.objective.name {objective!r} needs the special tokens {', '.join(names)}, and the tokenizer "
                f"has no {' and no '.join(missing)}; name them in the tokenizer_config.json beside it "
                f"({missing[0]}_token), or take another tokenizer"
            )
        return tuple(getattr(self, name) for name in names)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
    """Shape, dtype and axes of one array of a batch or of a `Carry`.

    Attributes:
      shape: without the batch axis.
      dtype: numpy dtype.
      axes: logical axes of `shape`, which the layout may divide; empty: none is divided.
    """

    shape: tuple[int, ...] = ()
    dtype: str = "int32"
    axes: tuple[str | None, ...] = ()

    @property
    def axis_names(self) -> tuple[str | None, ...]:
        """A name, or None, for every axis of `shape`."""
        return self.axes or (None,) * len(self.shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """The work of one model on one row, for FLOPs and throughput.

    Attributes:
      role: the model's role.
      length: tokens that it reads; in an encoder-decoder, tokens that the decoder reads.
      scored: positions with logits over the vocabulary.
      source: tokens that the encoder reads.
    """

    role: str
    length: int
    scored: int
    source: int = 0


@flax.struct.dataclass
class Carry:
    """Arrays that an objective keeps from step to step; an objective declares a `Field` for each.

    Attributes:
      rows: one entry per row of the batch, [batch, ...].
      shared: arrays without a batch axis, such as running means.
    """

    rows: Mapping[str, Any] = flax.struct.field(default_factory=dict)
    shared: Mapping[str, Any] = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class Part:
    """A batch, or a part of one.

    Attributes:
      batch: features, and a random key for each row (`row_keys`).
      weights: weights of the whole batch.
      key: random key of dropout; None in evaluation.
      carry: the carry of the last step; its `rows` are those of this part.
    """

    batch: Batch
    weights: Mapping[str, Float[Array, ""]]
    key: jax.Array | None = None
    carry: Carry = Carry()


@flax.struct.dataclass
class Loss:
    """What one batch, or one part of it, contributes.

    Attributes:
      total: what is differentiated: sums divided by the weights of the *whole* batch, so that parts add up.
      metrics: sums and weights.
      carry: the carry for the next step. `shared` holds this part's contribution, which is summed over parts, as totals
        are.
    """

    total: Float[Array, ""] | Any
    metrics: Sums
    carry: Carry = Carry()


class Objective(Protocol):
    """A pretraining objective. A subclass inherits the defaults below.

    Attributes:
      roles: the roles of its models, by name; a class attribute.
      reads: row plan, length and columns that it reads.
      terms: names of the metrics whose means add up to the loss.
      text: the features with the ids and the weights of tokens that together are the whole text, for bits per byte;
        None where the objective does not predict every token once.
      coupled: whether the loss of a row depends on the other rows of its batch, so that no part of a batch can be
        computed alone.
      carry: fields of the arrays that it keeps between steps; zeros before the first step.
      spec: fields of the arrays that `features` returns.
      work: the work of each model on a row.
    """

    roles: Mapping[str, Role]
    reads: Reads
    terms: tuple[str, ...]
    spec: Mapping[str, Field]
    work: tuple[Work, ...]
    text: tuple[str, str] | None = None
    coupled: bool = False
    carry: Carry = Carry()

    def features(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One row of a batch, on the host: masked, corrupted, padded to fixed shapes."""
        ...

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """How much of each term of the loss a batch holds; every term is divided by its weight."""
        ...

    def loss(self, models: Mapping[str, Bound], part: Part) -> Loss:
        """The loss of (a part of) a batch; `models` are bound to their parameters, by role."""
        ...


def weighted(values: Float[Array, "*batch"], weights: Float[Array, "*batch"]) -> Sum:
    """The weighted sum of `values`."""
    return Sum(total=(values * weights).sum(), weight=weights.sum())


def accuracy(
    logits: Float[Array, "*batch vocab"], labels: Int[Array, "*batch"], weights: Float[Array, "*batch"]
) -> Sum:
    """How often the largest logit is the label's."""
    return weighted(hits(logits, labels).astype(jnp.float32), weights)


def balanced(total: Float[Array, ""], metrics: Sums, output: Output) -> Loss:
    """A `Loss` of this total, plus the load-balancing loss of a mixture of experts where the model has one."""
    if isinstance(output.balance, float):
        return Loss(total=total, metrics=metrics)
    balance = Sum(total=output.balance, weight=jnp.ones(()))
    return Loss(total=total + output.balance, metrics={**metrics, "balance_loss": balance})


def per_weight(total: Float[Array, ""], weight: Float[Array, ""]) -> Float[Array, ""]:
    """`total / weight`, and 0 where nothing has weight."""
    return total / jnp.maximum(weight, 1e-9)


def row_keys(batch: Batch) -> Key[Array, " rows"]:
    """A random key per row; it does not depend on accumulation or on the device that holds the row."""
    return jax.random.wrap_key_data(batch[KEYS], impl="threefry2x32")


def padded(values: np.ndarray, length: int, fill: int = 0) -> np.ndarray:
    """`values` as int32, filled up to `length`."""
    row = np.full(length, fill, np.int32)
    row[: len(values)] = values
    return row


def counted(count: int, length: int) -> np.ndarray:
    """`count` ones, then zeros up to `length`: float32 weights."""
    return (np.arange(length) < count).astype(np.float32)
