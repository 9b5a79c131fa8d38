"""Learned tokens before those of a text: a soft prompt has embeddings, a prefix has keys and values in every layer.

The parameter `prompt/embedding [prompt factor]` has rows as the token table has them; self-attention has `prefix/key`
and `prefix/value` [prompt groups kv], which are not rotated. Learned tokens have the first positions, so that those of
the text begin after them, and every text of a packed row has them before it. The encoder reads the prompt of an
encoder-decoder; prefixes are in both stacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lm_jax.core.config import InputError
from lm_jax.models.attention.masks import Visibility
from lm_jax.models.config import EmbedConfig
from lm_jax.models.interface import Cache, Inputs, Output, Shown

PROMPT, PREFIX = "prompt", "prefix"
# A segment that no text has.
_ALONE = 1 << 30
# Below every place in a factorisation order: all tokens attend to it.
_FIRST = jnp.iinfo(jnp.int32).min


def count(params: Any) -> int:
    """Number of learned tokens in a model's parameters, which may be unstacked; 0: none."""
    return _soft(params) + _prefix(params)


def _soft(params: Any) -> int:
    return params[PROMPT]["embedding"].shape[0] if PROMPT in params else 0


def _prefix(tree: Any) -> int:
    if isinstance(tree, Mapping):
        own = tree[PREFIX]["key"].shape[-3] if PREFIX in tree else 0
        return own or max(map(_prefix, tree.values()), default=0)
    return max(map(_prefix, tree), default=0) if isinstance(tree, tuple) else 0


def call(
    run: Callable[[Inputs], Output],
    look_up: Callable[[Any], jax.Array],
    params: Any,
    inputs: Inputs,
    cache: Any,
    embed: EmbedConfig,
) -> Output:
    """Runs a model with the learned tokens of `params` before those of a batch; the output is that of the batch.

    Args:
      run: the model.
      look_up: maps token ids to rows of its token table.
      params: its parameters.
      inputs: the batch.
      cache: what `run` has as cache; with a `Cache`, a decoder has read the soft prompt before (`begin`).
      embed: for the number of learned positions.

    Raises:
      InputError: the model has learned positions, and too few of them for both.
    """
    if not (number := count(params)):
        return run(inputs)
    soft, source, has_cache = _soft(params), inputs.source, isinstance(cache, Cache)
    # The slots of a cache include a soft prompt, but no prefix.
    start = cache.index + number - soft if has_cache else number
    later = lambda part, start: _later(part, number, start, embed)
    if not soft:
        source = None if source is None else later(source, number)
        return run(later(inputs, start).replace(source=source))  # type: ignore[attr-defined]
    prepended = lambda part: _prepended(later(part, number), params[PROMPT]["embedding"], look_up)
    if _is_pair(params):
        source = None if source is None else prepended(source)
        return _without(run(inputs.replace(source=source)), 0, soft)  # type: ignore[attr-defined]
    if has_cache:
        return run(later(inputs, start))
    has_all = inputs.targets is None and inputs.read is None
    return _without(run(prepended(inputs)), soft if has_all else 0, soft)


def _is_pair(params: Any) -> bool:
    return "encoder" in params


def begin(run: Callable[..., Output], params: Any, cache: Cache, rows: int, dtype: Any) -> Cache:
    """A decoder's empty cache for some rows, after its soft prompt; any other cache as it is."""
    if not _soft(params) or _is_pair(params):
        return cache
    embedding = params[PROMPT]["embedding"].astype(dtype)
    number = len(embedding)
    inputs = Inputs(
        tokens=jnp.zeros((rows, number), jnp.int32),
        positions=jnp.arange(number)[None],
        segments=jnp.ones((rows, number), jnp.int32),
        embedded=jnp.broadcast_to(embedding[None], (rows, *embedding.shape)),
    )
    return run(inputs, cache=cache).cache  # type: ignore[return-value]


def slots(params: Any) -> tuple[int, int]:
    """The slots of a cache that a soft prompt takes: among those of the tokens, and of the encoder's tokens."""
    return (0, _soft(params)) if _is_pair(params) else (_soft(params), 0)


def _later(inputs: Inputs, number: int, start: Any, embed: EmbedConfig) -> Inputs:
    """The tokens at positions that begin after `number` learned tokens, or at `start` if they have none."""
    length = inputs.tokens.shape[1]
    if embed.positions == "learned" and length + number > embed.max_length:
        raise InputError(
            f"{number} learned tokens and a text of {length} make {length + number}, but config.model.embed.max_length "
            f"is {embed.max_length}; set config.data.length to {embed.max_length - number} or fewer"
        )
    positions = jnp.arange(length)[None] + start if inputs.positions is None else inputs.positions + number
    prefix = None if inputs.prefix is None else inputs.prefix + number
    consecutive = inputs.positions is None or inputs.consecutive
    return inputs.replace(positions=positions, prefix=prefix, shared=number, consecutive=consecutive)  # type: ignore[attr-defined]


def _prepended(inputs: Inputs, embedding: Float[Array, "prompt factor"], look_up: Callable[[Any], jax.Array]) -> Inputs:
    """The batch with a soft prompt before its tokens, which are already at later positions."""
    number, rows = len(embedding), look_up(inputs.tokens) if inputs.embedded is None else inputs.embedded
    batch, positions = rows.shape[0], jnp.asarray(inputs.positions)
    before = jnp.broadcast_to(embedding[None].astype(rows.dtype), (batch, *embedding.shape))
    places = jnp.broadcast_to(jnp.arange(number)[None], (positions.shape[0], number))

    def pad(x: Any, value: int) -> Any:
        return None if x is None else jnp.pad(jnp.asarray(x), ((0, 0), (number, 0)), constant_values=value)

    segments, unseen, targets = inputs.segments, inputs.unseen, inputs.targets
    # It reads the text of its row; of several texts, none: they would read each other through it.
    own = 1 if segments is None else jnp.where(segments.max(1, keepdims=True) > 1, _ALONE, 1)
    return inputs.replace(  # type: ignore[attr-defined]
        tokens=pad(inputs.tokens, 0),
        embedded=jnp.concatenate([before, rows], 1),
        positions=jnp.concatenate([places, positions], 1),
        segments=None
        if segments is None
        else jnp.where(jnp.arange(number + segments.shape[1]) < number, own, pad(segments, 0)),
        visible=pad(inputs.visible, 1),
        types=pad(inputs.types, 0),
        ranks=pad(inputs.ranks, _FIRST),
        unseen=None if unseen is None else jnp.pad(unseen, ((0, 0), (number, 0), (number, 0))),
        # -1 - i is an unused target at token i.
        targets=None if targets is None else jnp.where(targets < 0, targets - number, targets + number),
        read=None if inputs.read is None else inputs.read + number,
    )


def _without(output: Output, number: int, soft: int) -> Output:
    """The output without the first `number` tokens, and without the soft prompt in the layers' outputs."""
    shown = None if output.shown is None else _cut(output.shown, number, soft)
    logits = None if output.logits is None else output.logits[:, number:]
    return output.replace(hidden=output.hidden[:, number:], logits=logits, shown=shown)  # type: ignore[attr-defined]


def _cut(shown: Shown, number: int, soft: int) -> Shown:
    encoder = None if shown.encoder is None else _cut(shown.encoder, soft, soft)
    hidden = tuple(states[:, number:] for states in shown.hidden)
    return shown.replace(hidden=hidden, encoder=encoder)  # type: ignore[attr-defined]


def attended(
    prefix: Mapping[str, jax.Array], k: jax.Array, v: jax.Array, visibility: Visibility, bias: jax.Array | None
) -> tuple[jax.Array, jax.Array, Visibility, jax.Array | None]:
    """Keys and values [batch groups key kv] after those of a prefix, with what is visible, and the bias on scores."""
    number = prefix["key"].shape[0]

    def joined(own: jax.Array, rest: jax.Array) -> jax.Array:
        own = own.astype(rest.dtype).transpose(1, 0, 2)
        return jnp.concatenate([jnp.broadcast_to(own[None], (rest.shape[0], *own.shape)), rest], 2)

    bias = None if bias is None else jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (number, 0)))
    seen = visibility.prepended(number, jnp.arange(number)[None])
    return joined(prefix["key"], k), joined(prefix["value"], v), seen, bias
