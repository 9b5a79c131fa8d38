"""Vectors of texts: the hidden states of a layer, of each token or pooled."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lm_jax.core.config import InputError
from lm_jax.core.trees import Params
from lm_jax.decode import rectangles
from lm_jax.models.interface import Inputs
from lm_jax.models.model import Bound
from lm_jax.models.pooling import pooled
from lm_jax.models.transformer import EncoderDecoder, Transformer
from lm_jax.objectives.base import Vocabulary
from lm_jax.objectives.framing import Framing, frame
from lm_jax.parallel.layout import Layout

Module = Transformer | EncoderDecoder
# The hidden states that become the vector of a row, by the pool that `models.task.pooled` knows.
POOLS = {"mean": "mean", "first": "first", "last": "last", "none": "all"}


def depth(module: Module) -> int:
    """The number of layers of a model, or of its encoder."""
    config: Any = module.config
    return (config.encoder if config.kind == "encoder_decoder" else config.stack).depth


def number(module: Module, layer: int | None) -> int:
    """The number of a layer, from 0 (the embeddings) to the depth; negative numbers count from the end, None: the last.

    Raises:
      InputError: there is no such layer.
    """
    last = depth(module)
    if layer is None:
        return last
    if not -last - 1 <= layer <= last:
        raise InputError(
            f"--layer is {layer}; expected 0 (the embeddings) to {last} (the last layer), or {-last - 1} to -1, which "
            "count from the end"
        )
    return layer if layer >= 0 else last + 1 + layer


def framing(vocabulary: Vocabulary, kind: str, length: int, texts: int, closing: tuple[int, ...] | None) -> Framing:
    """The special ids of a row of one or two texts; `closing` ends it, None: what ends a text for the kind of model."""
    if closing is None and kind == "encoder_decoder":
        closing = vocabulary.closing
    if closing is None:
        return frame(vocabulary, kind, length, texts, "features")
    return Framing(vocabulary.before, vocabulary.between or closing or (vocabulary.eos,), closing, length)


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Computes the vectors of rows.

    Attributes:
      module, params: the model; of an encoder-decoder, the encoder reads the rows.
      framing: arranges the texts of a row.
      pad: id of padding.
      batch: rows of a batch.
      layer: 0: the embeddings; the depth of the model: its last hidden states, after the final norm.
      pool: a key of `POOLS`.
      normalise: whether vectors are divided by their norm.
      layout: the mesh of the parameters; None: one device.
    """

    module: Module
    params: Params
    framing: Framing
    pad: int
    batch: int
    layer: int
    pool: str
    normalise: bool
    layout: Layout | None

    def of(self, rows: Sequence[Sequence[np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """The tokens of each row of texts, and its vector [embed] or, without pooling, its vectors [tokens embed].

        Raises:
          InputError: the model computes NaN or infinity, or an id is outside of its vocabulary.
        """
        arranged = [self.framing.arrange(texts) for texts in rows]
        vocab = self.module.config.embed.vocab or 0
        tokens = rectangles.token_arrays([tokens for tokens, _ in arranged], vocab, "row")
        vectors = dict[int, np.ndarray]()
        by_length = sorted(range(len(rows)), key=lambda row: -len(tokens[row]))
        run = _program(self.module, self.layout, self.layer, POOLS[self.pool], self.normalise)  # type: ignore[arg-type]
        for first in range(0, len(rows), self.batch):
            chosen = by_length[first : first + self.batch]
            size = rectangles.bucket(len(tokens[chosen[0]]), self.framing.length)
            ids, segments = rectangles.right_padded([tokens[row] for row in chosen], self.batch, size, self.pad)
            types, _ = rectangles.right_padded([arranged[row][1] for row in chosen], self.batch, size, 0)
            states = np.asarray(run(self.params, ids, types, segments))
            for row, state in zip(chosen, states, strict=False):
                vectors[row] = state[: len(tokens[row])] if self.pool == "none" else state
                if not np.isfinite(vectors[row]).all():
                    raise InputError(rectangles.NOT_FINITE)
        return [(tokens[row], vectors[row]) for row in range(len(rows))]


@functools.lru_cache(maxsize=32)
def _program(
    module: Module, layout: Layout | None, layer: int, pool: str, normalise: bool
) -> Callable[..., Float[Array, "batch *length embed"]]:
    jit = jax.jit if layout is None else layout.jit
    return jit(functools.partial(_vectors, module, layout, layer, pool, normalise))


def _vectors(
    module: Module,
    layout: Layout | None,
    layer: int,
    pool: str,
    normalise: bool,
    params: Params,
    tokens: Int[Array, "batch length"],
    types: Int[Array, "batch length"],
    segments: Int[Array, "batch length"],
) -> Float[Array, "batch *length embed"]:
    """The (pooled) float32 hidden states of a batch, with segment 0 at padding."""
    config: Any = module.config
    read, last = Inputs(tokens=tokens, types=types, segments=segments), layer == depth(module)
    show = () if last else ("hidden",)
    if config.kind == "encoder_decoder":
        # The compiler drops the decoder, whose output is not used.
        output: Any = Bound(module, params)(Inputs(tokens=tokens[:, :1], source=read), show=show)
        hidden = output.memory if last else output.shown.encoder.hidden[layer]
    else:
        has_prefix = any(block.attention.mask == "prefix" for block in config.stack.blocks)
        prefix = (segments > 0).sum(1).astype(jnp.int32) if has_prefix else None
        output = Bound(module, params)(read.replace(prefix=prefix), show=show)  # type: ignore[attr-defined]
        hidden = output.hidden if last else output.shown.hidden[layer]
    # float32: a mean of bfloat16 states has three digits fewer.
    states = pooled(hidden.astype(jnp.float32), segments, pool)
    if normalise:
        states = states / jnp.maximum(jnp.linalg.norm(states, axis=-1, keepdims=True), 1e-12)
    return rectangles.replicated(states, layout)
