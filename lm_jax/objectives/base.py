"""The interface of a pretraining objective: corruption on the host (`features`), loss on the device (`loss`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from lm_jax.core.config import InputError, Tree, nearest
from lm_jax.core.sums import Sum, Sums
from lm_jax.data.pipeline import KEYS
from lm_jax.data.rows import Reads
from lm_jax.data.tokenizers import Tokenizer
from lm_jax.models.config import ModelConfig
from lm_jax.models.heads import is_largest
from lm_jax.models.interface import Output
from lm_jax.models.model import Bound
from lm_jax.objectives.roles import Role

Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The token ids that an objective uses.

    Attributes:
      size: number of ids.
      pad, eos: special ids that every tokenizer has.
      bos, cls, sep, mask: special ids, or None if the tokenizer lacks them; `require` returns those an objective needs.
      sentinels: ids that replace removed spans, in order.
      ordinary: range of the ids of ordinary (not special) pieces, (first, last + 1).
      start: first input id of an encoder-decoder's decoder; None: `pad`, as in T5.
      before, after: ids before and after every source of an encoder-decoder; an empty `after` means EOS.
      between: ids between the two texts of a pair; empty: those after a text.
      labels: the names of the labels of each column, by id.
      pieces: the printable piece of each id.
      starts_word: whether each id begins a word; None: unknown.
      texts: UTF-8 text of each id, perhaps a part of a character, b"" if special; empty: unknown.
      tokenizer: encodes the texts of settings, such as a pattern; None: no objective needs it.

    Example:
      >>> vocabulary = Vocabulary(size=100, pad=0, eos=1, mask=4, ordinary=(5, 100))
      >>> vocabulary.require("masked", "eos", "mask")
      (1, 4)
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
    between: tuple[int, ...] = ()
    labels: Mapping[str, tuple[str, ...]] = Tree()
    pieces: Sequence[str] = dataclasses.field(default=(), compare=False, repr=False)
    starts_word: Bool[np.ndarray, " vocab"] | None = dataclasses.field(default=None, compare=False, repr=False)
    texts: Sequence[bytes] = dataclasses.field(default=(), compare=False, repr=False)
    tokenizer: Tokenizer | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def decoder_start(self) -> int:
        """The first input id of an encoder-decoder's decoder."""
        return self.pad if self.start is None else self.start

    @property
    def closing(self) -> tuple[int, ...]:
        """The ids that end every source of an encoder-decoder."""
        return self.after or (self.eos,)

    def require(self, objective: str, *names: str) -> tuple[int, ...]:
        """The ids of the special tokens `names`; `objective` is the objective's name for messages.

        Raises:
          InputError: the tokenizer lacks a special token.
        """
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            raise InputError(
                f"config.objective.name {objective!r} needs the special tokens {', '.join(names)}, and the tokenizer "
                f"has no {' and no '.join(missing)}; name them in its tokenizer_config.json "
                f"({missing[0]}_token), or use another tokenizer"
            )
        return tuple(getattr(self, name) for name in names)

    def find(self, piece: str, key: str) -> int:
        """The id of a piece that the setting `key` names, such as a marker of a task.

        Raises:
          InputError: the tokenizer has no such piece.
        """
        if piece not in self.pieces:
            raise InputError(
                f"{key} is {piece!r}, which is no piece of the tokenizer{nearest(piece, self.pieces)}; add it with "
                f"--config.data.tokenizer.add={piece!r}"
            )
        return self.pieces.index(piece)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
    """Shape, dtype and axes of one array of a batch or of a `Carry`.

    Attributes:
      shape: without the batch axis.
      dtype: numpy dtype.
      axes: logical axes of `shape`, which the layout may shard; empty: not sharded.
      ids: whether the values are token ids, for people who read a batch.
      at: the field with the positions, in `tokens`, of this field's entries; empty: entry i is at position i.
      used: the field that is 0 where this field's entries are padding; empty: all are used.
    """

    shape: tuple[int, ...] = ()
    dtype: str = "int32"
    axes: tuple[str | None, ...] = ()
    ids: bool = False
    at: str = ""
    used: str = ""

    @property
    def axis_names(self) -> tuple[str | None, ...]:
        """The logical name, or None, of every axis of `shape`."""
        return self.axes or (None,) * len(self.shape)

    def cut(self, size: int | None) -> Field:
        """The field in a batch whose axes `length` are cut to `size`; None: uncut."""
        if size is None:
            return self
        axes = zip(self.shape, self.axis_names, strict=True)
        return dataclasses.replace(self, shape=tuple(min(n, size) if axis == "length" else n for n, axis in axes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """One model's token counts for one row, for FLOPs and throughput.

    Attributes:
      length: input tokens; for an encoder-decoder, those of its decoder.
      scored: positions with logits over the vocabulary.
      source: input tokens of the encoder of an encoder-decoder.
      targets: rows of the query stream of two-stream attention: they have queries, but no keys or values.
      candidates: logits of single ids, without those of the whole vocabulary.
      heads: by name of another head than the read-out, such as `pair`: number of positions that it reads.
      sequences: between which the tokens are divided, such as one for each choice.
    """

    role: str
    length: int
    scored: int
    source: int = 0
    targets: int = 0
    candidates: int = 0
    heads: Mapping[str, int] = Tree()
    sequences: int = 1

    def cut(self, size: int | None) -> Work:
        """The counts for a row of a batch that is cut to `size` tokens, at most; None: uncut."""
        if size is None:
            return self
        most, names = self.sequences * size, ("length", "scored", "source", "targets")
        counts = {name: min(getattr(self, name), most) for name in names}
        heads = Tree({name: min(count, most) for name, count in self.heads.items()})
        return dataclasses.replace(self, **counts, heads=heads)


@flax.struct.dataclass
class Carry:
    """Arrays that an objective carries from step to step; it declares a `Field` for each.

    Attributes:
      rows: one entry per row of the batch, [batch, ...].
      shared: arrays without a batch axis, such as running means.
    """

    rows: Mapping[str, Any] = flax.struct.field(default_factory=dict)
    shared: Mapping[str, Any] = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class Part:
    """A batch, or one micro-batch of it.

    Attributes:
      batch: features, and a random key per row (`row_keys`).
      weights: `Objective.weights` of the whole batch.
      key: random key of dropout; None in evaluation, where nothing regularises the loss.
      carry: the previous step's carry, with `rows` for the rows of this part only.
    """

    batch: Batch
    weights: Mapping[str, Float[Array, ""]]
    key: jax.Array | None = None
    carry: Carry = Carry()


@flax.struct.dataclass
class Loss:
    """The loss of a batch, or one micro-batch's contribution to it.

    Attributes:
      total: the scalar to differentiate: sums over this part divided by weights of the *whole* batch; parts add up.
      metrics: by name, a weighted sum over this part.
      carry: the carry for the next step. `shared` is this part's contribution; like `total`, it is summed over parts.
    """

    total: Float[Array, ""] | Any
    metrics: Sums
    carry: Carry = Carry()


class Objective(Protocol):
    """A pretraining objective; subclasses inherit the defaults below.

    Attributes:
      roles: the roles of its models, by name; a class attribute, or a property where they depend on the settings.
      reads: row plan, length and columns of its rows.
      terms: names of the metrics whose means add up to the loss.
      text: names of the features with the target ids and their weights, for bits per byte; None unless every token of
        the text is predicted exactly once.
      coupled: whether a row's loss depends on the other rows of its batch, which rules out micro-batches.
      carry: fields of the arrays carried from step to step; zeros before the first step.
      spec: fields of the arrays that `features` returns.
      work: token counts of each model for one row.
    """

    roles: Mapping[str, Role]
    reads: Reads
    terms: tuple[str, ...]
    spec: Mapping[str, Field]
    work: tuple[Work, ...]
    text: tuple[str, str] | None = None
    coupled: bool = False
    carry: Carry = Carry()

    @property
    def device(self) -> Any:
        """The settings that `inputs`, `weights` and `loss` read: parts of a mixture must agree on them."""
        return getattr(self, "config", None)

    def check(self, configs: Mapping[str, ModelConfig]) -> None:
        """Raises InputError if a model, whose settings `configs` maps by role, ignores a setting of the objective."""

    @classmethod
    def roles_of(cls, config: Any) -> Mapping[str, Role]:
        """The roles of an objective with the settings `config`, without building it; overridden if they differ."""
        return cls.roles

    def features(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Corrupts one row on the host, which holds what `reads` asks for, and pads it to fixed shapes."""
        ...

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """The denominator of each term of the loss, such as the number of predicted tokens."""
        ...

    def loss(self, models: Mapping[str, Bound], part: Part) -> Loss:
        """The loss of a batch or micro-batch; `models` maps roles to models bound to their parameters."""
        ...


def weighted(values: Float[Array, "*batch"], weights: Float[Array, "*batch"]) -> Sum:
    """The weighted sum of `values`, and the sum of the weights."""
    return Sum(total=(values * weights).sum(), weight=weights.sum())


def accuracy(
    logits: Float[Array, "*batch vocab"], labels: Int[Array, "*batch"], weights: Float[Array, "*batch"]
) -> Sum:
    """The weighted count of positions where the label has the largest logit."""
    return weighted(is_largest(logits, labels).astype(jnp.float32), weights)


def balanced(total: Float[Array, ""], metrics: Sums, *outputs: Output) -> Loss:
    """The `Loss` of `total`, plus the load-balancing losses of the models whose experts have one."""
    losses = [output.balance for output in outputs if not isinstance(output.balance, float)]
    if not losses:
        return Loss(total=total, metrics=metrics)
    balance = sum(losses[1:], losses[0])
    return Loss(total=total + balance, metrics={**metrics, "balance_loss": Sum(total=balance, weight=jnp.ones(()))})


def per_weight(total: Float[Array, ""], weight: Float[Array, ""]) -> Float[Array, ""]:
    """`total / weight`; 0 / 0 is 0."""
    return total / jnp.maximum(weight, 1e-9)


def row_keys(batch: Batch) -> Key[Array, " rows"]:
    """A random key per row, independent of gradient accumulation and of sharding."""
    return jax.random.wrap_key_data(batch[KEYS], impl="threefry2x32")


def padded(values: np.ndarray, length: int, fill: int = 0) -> np.ndarray:
    """`values` as int32, padded to `length` with `fill`."""
    row = np.empty(length, np.int32)
    row[: len(values)], row[len(values) :] = values, fill
    return row


def counted(count: int, length: int, dtype: type = np.float32) -> np.ndarray:
    """Weights of a padded row: `count` ones, then zeros up to `length`."""
    weights = np.zeros(length, dtype)
    weights[:count] = 1
    return weights


def runs(starts: Int[np.ndarray, " runs"], lengths: Int[np.ndarray, " runs"], count: int) -> Bool[np.ndarray, " count"]:
    """Whether each of `count` positions lies in one of the runs, which may be empty."""
    inside, stops = np.zeros(count, bool), lengths.cumsum()
    index = (starts - stops + lengths).repeat(lengths)
    inside[index + np.arange(len(index))] = True
    return inside


def enclosed(
    before: Sequence[int], tokens: Int[np.ndarray, " tokens"], after: Sequence[int]
) -> Int[np.ndarray, " enclosed"]:
    """`tokens` between special ids, as int32."""
    result = np.empty(len(before) + len(tokens) + len(after), np.int32)
    result[: len(before)] = before
    result[len(before) : len(before) + len(tokens)] = tokens
    result[len(before) + len(tokens) :] = after
    return result


def inserted(
    tokens: Int[np.ndarray, " tokens"], before: Int[np.ndarray, " ids"], ids: Int[np.ndarray, " ids"] | int
) -> Int[np.ndarray, " longer"]:
    """`tokens` with `ids[j]` in front of token `before[j]`; `before` is sorted, and may repeat a position."""
    result = np.empty(len(tokens) + len(before), np.int32)
    old, at = np.ones(len(result), bool), before + np.arange(len(before))
    old[at] = False
    result[at], result[old] = ids, tokens
    return result
