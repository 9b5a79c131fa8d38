"""What a pretraining objective is: both halves of an idea, corruption on the host and loss on the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lm_jax.core.config import InputError
from lm_jax.core.sums import Sum, Sums
from lm_jax.data.rows import Reads
from lm_jax.models.heads import hits

Apply = Callable[..., Any]
Params = Any
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


@flax.struct.dataclass
class Loss:
    """What one batch, or one part of it, contributes.

    Attributes:
      total: what is differentiated: sums divided by the weights of the *whole* batch, so that parts add up.
      metrics: sums and weights.
    """

    total: Float[Array, ""] | Any
    metrics: Sums


class Objective(Protocol):
    """A pretraining objective.

    Attributes:
      roles: names of the models that it trains.
      kinds: kinds of model that it can train.
      reads: what it reads of a row.
      terms: names of the metrics whose means add up to the loss.
    """

    @property
    def roles(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def kinds(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def reads(self) -> Reads: ...  # noqa: D102
    @property
    def terms(self) -> tuple[str, ...]: ...  # noqa: D102

    def features(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One row of a batch, on the host: masked, corrupted, padded to fixed shapes."""
        ...

    def inputs(self, batch: Batch) -> Any:
        """What the model reads of a batch."""
        ...

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """How much of each term of the loss a batch holds; every term is divided by its weight."""
        ...

    def loss(
        self,
        apply: Mapping[str, Apply],
        params: Mapping[str, Params],
        batch: Batch,
        key: jax.Array,
        weights: Mapping[str, Float[Array, ""]],
        *,
        train: bool,
    ) -> Loss:
        """The loss of (a part of) a batch whose whole has `weights`."""
        ...


def weighted(values: Float[Array, "*batch"], weights: Float[Array, "*batch"]) -> Sum:
    """The weighted sum of `values`."""
    return Sum(total=(values * weights).sum(), weight=weights.sum())


def accuracy(
    logits: Float[Array, "*batch vocab"], labels: Int[Array, "*batch"], weights: Float[Array, "*batch"]
) -> Sum:
    """How often the largest logit is the label's."""
    return weighted(hits(logits, labels).astype(jnp.float32), weights)


def per_weight(total: Float[Array, ""], weight: Float[Array, ""]) -> Float[Array, ""]:
    """`total / weight`, and 0 where nothing has weight."""
    return total / jnp.maximum(weight, 1e-9)


def dropout(key: jax.Array, train: bool) -> dict[str, Any]:
    """The keyword arguments that make a model's dropout act in training and rest in evaluation."""
    return {"train": True, "rngs": {"dropout": key}} if train else {"train": False}


def padded(values: np.ndarray, length: int, fill: int = 0) -> np.ndarray:
    """`values` as int32, filled up to `length`."""
    row = np.full(length, fill, np.int32)
    row[: len(values)] = values
    return row


def counted(count: int, length: int) -> np.ndarray:
    """`count` ones, then zeros up to `length`: float32 weights."""
    return (np.arange(length) < count).astype(np.float32)
