"""Heads: logits over the vocabulary, of sentence pairs, of replaced tokens and of tokens between two others.

Gather hidden states before a readout, to avoid unused logits.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lm_jax.core.config import InputError, lookup
from lm_jax.models import cpu, initializers
from lm_jax.models.config import InitConfig, NormConfig, ReadoutConfig
from lm_jax.models.embed import TokenTable
from lm_jax.models.feedforward.dense import ACTIVATIONS
from lm_jax.models.norms import Norm
from lm_jax.models.projection import Projection
from lm_jax.models.task import TaskHeadConfig
from lm_jax.parallel.layout import constrain


class Readout(nn.Module):
    """Logits over the vocabulary, from the tied token table or a separate matrix."""

    config: ReadoutConfig
    norm: NormConfig
    init_config: InitConfig
    dtype: jnp.dtype
    vocab: int

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "... embed"],
        table: TokenTable,
        ids: Int[Array, "... ids"] | None = None,
        *,
        transform: bool = True,
    ) -> Float[Array, "... vocab"]:
        """Computes the logits of every hidden state, for all of the vocabulary or for each state's own `ids`.

        Without `transform`, the hidden states have the table's width.
        """
        width, table_width = hidden.shape[-1], table.width
        draw = initializers.kernel(self.init_config, width, table_width)
        if self.config.transform and transform:
            bias = self.config.transform_bias
            axes = ("embed", "embed_out")
            dense = Projection((width,), (table_width,), axes, draw, bias, self.dtype, name="transform")
            hidden = lookup(ACTIVATIONS, self.config.transform, "readout.transform")(dense(hidden))
            hidden = Norm(self.norm, name="norm")(hidden)
        elif table_width != width:
            axes = ("embed", "factor")
            hidden = Projection((width,), (table_width,), axes, draw, False, self.dtype, name="factor")(hidden)
        scale = initializers.readout_scale(self.init_config, width) * (width**-0.5 if self.config.scale else 1.0)
        if scale != 1.0:
            hidden = hidden * jnp.asarray(scale, hidden.dtype)
        if ids is not None:
            return self._of_ids(hidden, table, ids)
        if self.config.tied:
            logits = table.attend(hidden)
        else:
            draw = initializers.readout(self.init_config, table_width, self.vocab)
            out = Projection((table_width,), (self.vocab,), ("embed", "vocab"), draw, False, self.dtype, name="out")
            logits = out(hidden)
        if self.config.bias:
            bias = initializers.parameter(self, "bias", nn.initializers.zeros, ("vocab",), (self.vocab,))
            rows = cpu.broadcast_rows(bias.astype(self.dtype).reshape(1, self.vocab), math.prod(logits.shape[:-1]))
            logits = logits + rows.reshape(logits.shape)
        if self.config.softcap is not None:
            logits = self.config.softcap * jnp.tanh(logits / self.config.softcap)
        return constrain(logits, "batch", *[None] * (logits.ndim - 2), "vocab")

    def _of_ids(self, hidden: jax.Array, table: TokenTable, ids: jax.Array) -> jax.Array:
        """The logits of `ids` [... ids], from the gathered rows of a tied table."""
        if not self.config.tied:
            raise InputError("logits of candidates need a tied readout; set config.model.readout.tied=True")
        logits = jnp.einsum("...e,...ie->...i", hidden, table.rows(ids))
        if self.config.bias:
            bias = initializers.parameter(self, "bias", nn.initializers.zeros, ("vocab",), (self.vocab,))
            logits = logits + jnp.take(bias, ids, axis=0).astype(self.dtype)
        return logits if self.config.softcap is None else self.config.softcap * jnp.tanh(logits / self.config.softcap)


class PairHead(nn.Module):
    """Pooler, as in the released code, and classifier of sentence pairs on the first token (Devlin et al. 2019)."""

    classes: int
    init_config: InitConfig
    dtype: jnp.dtype
    activation: str = "tanh"

    @nn.compact
    def __call__(self, first: Float[Array, "batch embed"]) -> Float[Array, "batch classes"]:
        """Computes the logits of the classes from the first token's hidden state."""
        width = first.shape[-1]
        draw = initializers.kernel(self.init_config, width, width)
        pooler = Projection((width,), (width,), ("embed", "embed_out"), draw, True, self.dtype, name="pooler")
        draw = initializers.readout(self.init_config, width, self.classes)
        out = Projection((width,), (self.classes,), ("embed", "classes"), draw, True, self.dtype, name="out")
        scale = initializers.readout_scale(self.init_config, width)
        pooled = lookup(ACTIVATIONS, self.activation, "config.model.pair_activation")(pooler(first))
        return out(pooled if scale == 1.0 else pooled * jnp.asarray(scale, pooled.dtype))


class DetectionHead(nn.Module):
    """Whether each token was replaced: a dense layer and one logit (Clark et al. 2020, arXiv:2003.10555, section 2)."""

    init_config: InitConfig
    dtype: jnp.dtype
    activation: str = "gelu"

    @nn.compact
    def __call__(self, hidden: Float[Array, "... embed"]) -> Float[Array, " ..."]:
        """Computes the log-odds that the token of every hidden state was replaced."""
        width = hidden.shape[-1]
        draw = initializers.kernel(self.init_config, width, width)
        dense = Projection((width,), (width,), ("embed", "embed_out"), draw, True, self.dtype, name="dense")
        draw = initializers.readout(self.init_config, width, 1)
        out = Projection((width,), (1,), ("embed", "classes"), draw, True, self.dtype, name="out")
        scale = initializers.readout_scale(self.init_config, width)
        states = lookup(ACTIVATIONS, self.activation, "config.model.detection_activation")(dense(hidden))
        return out(states if scale == 1.0 else states * jnp.asarray(scale, states.dtype))[..., 0]


class TaskHead(nn.Module):
    """The head of a task (`task.TaskHeadConfig`), on pooled hidden states or on those of all tokens."""

    config: TaskHeadConfig
    init_config: InitConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, hidden: Float[Array, "*batch embed"], train: bool = False) -> Float[Array, "*batch classes"]:
        """Computes the logits; without classes, the states that a projection would read."""
        config, width = self.config, hidden.shape[-1]
        drop = lambda rate, x: nn.Dropout(rate, deterministic=not train)(x) if rate else x
        if config.dense:
            draw = initializers.kernel(self.init_config, width, width)
            axes = ("embed", "embed_out")
            dense = Projection((width,), (width,), axes, draw, config.dense_bias, self.dtype, name="dense")
            hidden = dense(drop(config.dense_dropout, hidden))
        if config.activation:
            hidden = lookup(ACTIVATIONS, config.activation, "config.model.task.activation")(hidden)
        if config.norm:
            hidden = Norm(NormConfig(bias=config.norm_bias, epsilon=config.epsilon), name="norm")(hidden)
        if not config.classes:
            return hidden
        draw = initializers.readout(self.init_config, width, config.classes)
        out = Projection((width,), (config.classes,), ("embed", "classes"), draw, config.bias, self.dtype, name="out")
        hidden, scale = drop(config.dropout, hidden), initializers.readout_scale(self.init_config, width)
        return out(hidden if scale == 1.0 else hidden * jnp.asarray(scale, hidden.dtype))


class BoundaryHead(nn.Module):
    """What the boundaries of a span tell about its tokens (Joshi et al. 2020, arXiv:1907.10529, section 3.2).

    h0 = [x before the span; x after it; position in the span], h1 = norm(gelu(W1 h0)), h2 = norm(gelu(W2 h1)). The
    readout gives the logits of h2, which has the width of the token table. W1 is stored in three parts.
    """

    positions: int
    position_width: int
    norm: NormConfig
    init_config: InitConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        before: Float[Array, "*batch embed"],
        after: Float[Array, "*batch embed"],
        distances: Int[Array, "*batch"],
        table: TokenTable,
    ) -> Float[Array, "*batch factor"]:
        """Computes the hidden states from those next to the spans; `distances`: tokens from the span's first."""
        width, fan_in = before.shape[-1], 2 * before.shape[-1] + self.position_width
        draw, axes = initializers.kernel(self.init_config, fan_in, width), ("embed", "embed_out")
        hidden = Projection((width,), (width,), axes, draw, True, self.dtype, name="before")(before)
        hidden = hidden + Projection((width,), (width,), axes, draw, False, self.dtype, name="after")(after)
        shape = (self.positions, self.position_width)
        rows = initializers.parameter(
            self, "position", initializers.table(self.init_config), ("position", "factor"), shape
        )
        axes = ("factor", "embed_out")
        position = Projection((self.position_width,), (width,), axes, draw, False, self.dtype, name="at")
        # A product with one-hot rows: its gradient is a matrix product; that of a gather is a slow scatter.
        one_hot = jax.nn.one_hot(distances, self.positions, dtype=self.dtype)
        hidden = hidden + one_hot @ position(rows.astype(self.dtype))
        hidden = Norm(self.norm, name="norm")(ACTIVATIONS["gelu"](hidden))
        draw = initializers.kernel(self.init_config, width, table.width)
        hidden = Projection((width,), (table.width,), ("embed", "embed_out"), draw, True, self.dtype, name="out")(
            hidden
        )
        return Norm(self.norm, name="out_norm")(ACTIVATIONS["gelu"](hidden))


def gather(hidden: Float[Array, "batch length embed"], positions: jax.Array) -> Float[Array, "batch count embed"]:
    """Gathers the hidden states at `positions` [batch count] of each row."""
    return jnp.take_along_axis(hidden, positions[..., None], axis=1)


def largest(logits: Float[Array, "*batch classes"]) -> Int[Array, "*batch"]:
    """The index of the largest logit; the first of equal ones."""
    # Two plain reductions: on the few rows of generation, XLA's argmax takes three times as long on a CPU.
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    first = jnp.where(logits == logits.max(-1, keepdims=True), ids, logits.shape[-1]).min(-1)
    # NaN equals nothing, but the result must still be a valid index.
    return jnp.minimum(first, logits.shape[-1] - 1)


def is_largest(logits: Float[Array, "*batch classes"], labels: Int[Array, "*batch"]) -> Bool[Array, "*batch"]:
    """Whether the label is the index that `largest` returns."""
    # The sum is in float32: XLA's integer reductions take up to forty times as long on a CPU.
    at, highest = labels[..., None], logits.max(-1, keepdims=True)
    before = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1) < at
    earlier_ties = ((logits == highest) & before).astype(jnp.float32).sum(-1)
    return (jnp.take_along_axis(logits, at, -1) == highest)[..., 0] & (earlier_ties == 0)
