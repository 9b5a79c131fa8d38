"""Mask filling with an encoder (Devlin et al. 2019, section 3.1, task 1)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lm_jax.core.config import InputError
from lm_jax.core.trees import Params
from lm_jax.decode import rectangles
from lm_jax.models.heads import gather
from lm_jax.models.interface import Inputs
from lm_jax.models.model import Bound
from lm_jax.models.transformer import EncoderDecoder, Transformer
from lm_jax.parallel.layout import Layout

Candidates = list[tuple[int, float]]


def fill(
    module: Transformer | EncoderDecoder,
    params: Params,
    rows: Sequence[Any],
    *,
    mask: int,
    pad: int,
    top: int,
    forbidden: Sequence[int] = (),
    layout: Layout | None = None,
) -> list[list[tuple[int, Candidates]]]:
    """Returns the most probable ids for every mask of every row.

    Args:
      module: an encoder.
      params: its parameters, sharded or not.
      rows: token ids with special tokens and masks.
      mask: id of the mask token.
      pad: id of padding.
      top: number of ids to return per mask.
      forbidden: ids never returned; probabilities still cover the whole vocabulary.
      layout: the mesh of `params`, so that activations are sharded on it too.

    Returns:
      For each row and each mask, in order: the mask's position, and pairs of id and probability, most probable first.
      Each mask is predicted independently, with the other masks in place.

    Raises:
      InputError: rows that do not fit the model, or settings out of range.
    """
    config = module.config
    if config.kind != "encoder":
        raise InputError(f"only an encoder fills masks, but this model is a {config.kind}; generate text with it")
    vocab = config.embed.vocab or 0
    allowed = rectangles.allowed(forbidden, vocab)
    if not 1 <= top <= allowed.sum():
        raise InputError(f"--top_k is {top}; expected 1..{allowed.sum()}, the number of ids that are not forbidden")
    arrays = rectangles.token_arrays(rows, vocab, "row")
    positions = [np.flatnonzero(row == mask) for row in arrays]
    if not any(map(len, positions)):
        return [[] for _ in arrays]
    limit, size = rectangles.longest(config.embed, params), max(map(len, arrays))
    if limit is not None and size > limit:
        raise InputError(
            f"a row has {size} tokens, but config.model.embed.max_length is {limit}; remove {size - limit} tokens"
        )
    count = rectangles.divisible(len(arrays), layout)
    tokens, segments = rectangles.right_padded(arrays, count, rectangles.bucket(size, limit), pad)
    masks, _ = rectangles.right_padded(positions, count, rectangles.bucket(max(map(len, positions)), shortest=1), 0)
    run = _program(module, layout, top)  # type: ignore[arg-type]
    ids, probabilities = map(np.asarray, run(params, Inputs(tokens=tokens, segments=segments), masks, allowed))
    if not np.isfinite(probabilities).all():
        raise InputError(rectangles.NOT_FINITE)
    candidates = lambda row, n: list(zip(ids[row, n].tolist(), probabilities[row, n].tolist(), strict=True))
    return [[(int(at), candidates(row, n)) for n, at in enumerate(places)] for row, places in enumerate(positions)]


@functools.lru_cache(maxsize=32)
def _program(module: Transformer, layout: Layout | None, top: int) -> Callable[..., Any]:
    jit = jax.jit if layout is None else layout.jit
    return jit(functools.partial(_most_probable, module, layout, top))


def _most_probable(
    module: Transformer,
    layout: Layout | None,
    top: int,
    params: Params,
    inputs: Inputs,
    masks: Int[Array, "batch count"],
    allowed: Bool[Array, " vocab"],
) -> tuple[Int[Array, "batch count top"], Float[Array, "batch count top"]]:
    """The `top` most probable ids at the positions `masks`, and their probabilities."""
    model = Bound(module, params)
    logits = model.readout(gather(model(inputs).hidden, masks))
    # float32: bfloat16 probabilities have only two digits.
    probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    values, ids = jax.lax.top_k(jnp.where(allowed[None, None], probabilities, -1.0), top)
    return rectangles.replicated((ids, values), layout)
