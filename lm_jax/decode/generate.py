"""Batched generation with a cache, for decoders and encoder-decoders: one program reads, one program writes.

Prompts of different lengths share a batch: a decoder's are padded on the left, with positions of their own, and an
encoder's on the right; padding is seen by nobody, so a prompt is continued alone as it is in company.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from lm_jax.core.config import InputError
from lm_jax.core.trees import Params
from lm_jax.decode import rectangles
from lm_jax.decode.sampling import SamplingConfig, draw, permitted, row_keys
from lm_jax.decode.weights import unstacked
from lm_jax.models.config import EncoderDecoderConfig
from lm_jax.models.interface import Cache, Inputs
from lm_jax.models.model import Bound
from lm_jax.models.transformer import EncoderDecoder, Transformer
from lm_jax.parallel.layout import Layout

OnTokens = Callable[[int, np.ndarray], None]


@dataclasses.dataclass(frozen=True)
class Generated:
    """One prompt's continuation.

    Attributes:
      tokens: int32 ids, up to and including the first EOS.
      log_probabilities: float32, the model's own log P of each token given those before it, at temperature 1 and
        over the whole vocabulary, whatever it was drawn from.
      finished: whether it ended with EOS and not for want of room.
    """

    tokens: np.ndarray
    log_probabilities: np.ndarray
    finished: bool


@flax.struct.dataclass
class Progress:
    """What a batch has written so far.

    Attributes:
      step: tokens written by every row that has not finished.
      last: the latest token of each row, which the model has not read yet.
      tokens: all of them; padding after EOS.
      log_probabilities: of `tokens`.
      lengths: how many of `tokens` count, EOS included.
      finished: rows that have written EOS.
    """

    step: Int[Array, ""]
    last: Int[Array, " batch"]
    tokens: Int[Array, "batch room"]
    log_probabilities: Float[Array, "batch room"]
    lengths: Int[Array, " batch"]
    finished: Bool[Array, " batch"]


@flax.struct.dataclass
class Limits:
    """What may be written.

    Attributes:
      allowed: ids that may be.
      allowed_first: ids that may be the first of a text.
      pad: what stands after the end of a text.
      ends: ids that end it; -1 is none.
      first: the first id of every text, and `last` that of its last place; -1 leaves them to the model.
      most: tokens of the longest text that may be written, at most the plan's `room`.
    """

    allowed: Bool[Array, " vocab"]
    allowed_first: Bool[Array, " vocab"]
    pad: Int[Array, ""]
    ends: Int[Array, " ends"]
    first: Int[Array, ""]
    last: Int[Array, ""]
    most: Int[Array, ""]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a compiled program of generation depends on, besides shapes; `forced` is whether borders of texts matter.

    `room` is places for new tokens: few sizes serve all numbers of them.
    """

    module: Transformer | EncoderDecoder
    layout: Layout | None
    sampling: SamplingConfig
    room: int
    forced: bool


def generate(
    module: Transformer | EncoderDecoder,
    params: Params,
    prompts: Sequence[Any],
    *,
    max_tokens: int,
    sampling: SamplingConfig,
    seed: int,
    pad: int,
    eos: int | Sequence[int] | None,
    bos: int,
    start: int | None = None,
    forbidden: Sequence[int] = (),
    forbidden_first: Sequence[int] = (),
    first: int | None = None,
    last: int | None = None,
    on_tokens: OnTokens | None = None,
    chunk: int = 4,
    layout: Layout | None = None,
) -> list[Generated]:
    """Continues prompts with a decoder, or answers them with an encoder-decoder.

    Args:
      module: the model.
      params: its parameters, sharded or not; those of `weights.unstacked` save a copy per call.
      prompts: token ids of each prompt. A decoder continues them, an empty one from `bos`; an encoder-decoder reads
        them as its source.
      max_tokens: the most that is written per prompt.
      sampling: how tokens are chosen.
      seed: a prompt's draws depend on this, its number and the step, not on the other prompts.
      pad: id of padding.
      eos: id that ends a text, or several of which each does; None never ends one.
      bos: id that an empty prompt starts from.
      start: id that the decoder of an encoder-decoder reads first; None is `pad`, as T5 has it.
      forbidden: ids that are never written.
      forbidden_first: ids that are not written first.
      first: id that is written first, whatever the model thinks.
      last: id that is written at the last place, where a text has not ended before.
      on_tokens: called with a prompt's number and its new tokens as they come.
      chunk: steps between two calls of `on_tokens`.
      layout: the mesh that `params` live on, to fix where activations live too.

    Raises:
      InputError: prompts that do not fit the model, or settings out of range.
    """
    config = module.config
    _check(config.kind, max_tokens, seed)
    vocab = config.embed.vocab or 0
    sources = rectangles.checked(prompts, vocab, "prompt")
    vocab = getattr(config, "decoder_vocab", None) or vocab
    if not sources:
        return []
    ends = [-1] if eos is None else [eos] if isinstance(eos, int) else [*eos]
    limits = Limits(
        allowed=jnp.asarray(rectangles.allowed(forbidden, vocab)),
        allowed_first=jnp.asarray(rectangles.allowed([*forbidden, *forbidden_first], vocab)),
        pad=jnp.int32(pad),
        ends=jnp.asarray(ends, jnp.int32),
        first=jnp.int32(-1 if first is None else first),
        last=jnp.int32(-1 if last is None else last),
        most=jnp.int32(max_tokens),
    )
    count = rectangles.divisible(len(sources), layout)
    inputs = _inputs(module, sources, count, max_tokens, pad, bos, pad if start is None else start)
    forced = bool(forbidden_first) or first is not None or last is not None
    room = rectangles.bucket(max_tokens, rectangles.longest(config.embed))
    plan = Plan(module=module, layout=layout, sampling=sampling, room=room, forced=forced)
    read, write = _programs(plan)
    params = unstacked(module, params)
    live = np.arange(count) < len(sources)
    cache, progress, keys, positions = read(params, inputs, limits, live, np.uint32(seed))
    shown = np.zeros(len(sources), np.int64)
    for stop in [max_tokens] if on_tokens is None else [*range(1, max_tokens, max(chunk, 1)), max_tokens]:
        if stop > 1:
            cache, progress = write(params, cache, progress, limits, keys, positions, np.int32(stop))
        if on_tokens is not None:
            shown = _show(progress, shown, on_tokens)
        if np.asarray(progress.finished).all():
            break
    return _results(progress, len(sources))


def _check(kind: str, max_tokens: int, seed: int) -> None:
    if kind == "encoder":
        raise InputError("an encoder writes no text; give it a prompt with masks to fill")
    if max_tokens < 1:
        raise InputError(f"--max_tokens is {max_tokens}; expected at least 1")
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed is {seed}; expected 0..{2**32 - 1}")


def _inputs(
    module: Transformer | EncoderDecoder,
    sources: list[np.ndarray],
    count: int,
    max_tokens: int,
    pad: int,
    bos: int,
    start: int,
) -> Inputs:
    """What is read before the first token is written, as numpy arrays."""
    limit = rectangles.longest(module.config.embed)
    if isinstance(module.config, EncoderDecoderConfig):
        most = max(map(len, sources))
        if limit is not None and max(most, max_tokens) > limit:
            raise InputError(
                f"a source of {most} tokens and --max_tokens {max_tokens}, but config.model.embed.max_length is "
                f"{limit}; use at most that of each"
            )
        tokens, segments = rectangles.right_padded(sources, count, rectangles.bucket(most, limit), pad)
        source = Inputs(tokens=tokens, segments=segments)
        first = np.full((count, 1), start, np.int32)
        return Inputs(tokens=first, positions=np.zeros_like(first), segments=np.ones_like(first), source=source)
    sources = [row if len(row) else np.array([bos], np.int32) for row in sources]
    most = max(map(len, sources))
    if limit is not None and most + max_tokens > limit:
        advice = f"use --max_tokens={limit - most} or " if most < limit else ""
        raise InputError(
            f"a prompt of {most} tokens and --max_tokens {max_tokens} make {most + max_tokens}, but "
            f"config.model.embed.max_length is {limit}; {advice}shorten the prompt"
        )
    tokens, positions, segments = rectangles.left_padded(sources, count, rectangles.bucket(most), pad)
    return Inputs(tokens=tokens, positions=positions, segments=segments)


@functools.lru_cache(maxsize=32)
def _programs(plan: Plan) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The compiled reading of a prompt, and the compiled writing of any number of tokens."""
    jit = jax.jit if plan.layout is None else plan.layout.jit
    # The cache is written in place.
    return jit(functools.partial(_read, plan)), jit(functools.partial(_write, plan), donate_argnums=1)


def _read(
    plan: Plan, params: Params, inputs: Inputs, limits: Limits, live: Bool[Array, " batch"], seed: Array
) -> tuple[Cache, Progress, Key[Array, " batch"], Int[Array, " batch"]]:
    """The first token of every row; with it the filled cache, a random key per row, and the place of that token."""
    count, length = inputs.tokens.shape
    source = 0 if inputs.source is None else inputs.source.tokens.shape[1]
    # The last token written is never read.
    cache = Bound(plan.module, params).empty_cache(count, length + plan.room - 1, source)
    keys = row_keys(seed, count)
    progress = Progress(
        step=jnp.zeros((), jnp.int32),
        last=jnp.zeros(count, jnp.int32),
        tokens=jnp.full((count, plan.room), limits.pad),
        log_probabilities=jnp.zeros((count, plan.room), jnp.float32),
        lengths=jnp.zeros(count, jnp.int32),
        finished=~live,
    )
    cache, progress = _advance(plan, params, inputs, cache, progress, limits, keys)
    return cache, progress, keys, inputs.positions[:, -1] + 1  # type: ignore[index]


def _write(
    plan: Plan,
    params: Params,
    cache: Cache,
    progress: Progress,
    limits: Limits,
    keys: Key[Array, " batch"],
    positions: Int[Array, " batch"],
    stop: Int[Array, ""],
) -> tuple[Cache, Progress]:
    """Writes until every row has `stop` tokens or has finished."""

    def unfinished(state: tuple[Cache, Progress]) -> Array:
        return (state[1].step < stop) & ~state[1].finished.all()

    def body(state: tuple[Cache, Progress]) -> tuple[Cache, Progress]:
        cache, progress = state
        tokens = progress.last[:, None]
        # The token of step 1 stands where the prompt ended.
        places = (positions + progress.step - 1)[:, None]
        inputs = Inputs(tokens=tokens, positions=places, segments=jnp.ones_like(tokens))
        return _advance(plan, params, inputs, cache, progress, limits, keys)

    return jax.lax.while_loop(unfinished, body, (cache, progress))


def _advance(
    plan: Plan, params: Params, inputs: Inputs, cache: Cache, progress: Progress, limits: Limits, keys: Array
) -> tuple[Cache, Progress]:
    """Reads `inputs`, whose last column is the latest token of every row, and writes one more."""
    model = Bound(plan.module, params)
    output = model(inputs, cache=cache)
    logits = model.readout(output.hidden[:, -1])
    chosen = _chosen(plan, logits, keys, progress.step, limits)
    wide = logits.astype(jnp.float32)
    score = jnp.take_along_axis(wide, chosen[:, None], -1)[:, 0] - jax.nn.logsumexp(wide, axis=-1)
    finished, step = progress.finished, progress.step
    chosen, score = jnp.where(finished, limits.pad, chosen), jnp.where(finished, 0.0, score)
    progress = Progress(
        step=step + 1,
        last=chosen,
        tokens=jax.lax.dynamic_update_slice(progress.tokens, chosen[:, None], (0, step)),
        log_probabilities=jax.lax.dynamic_update_slice(progress.log_probabilities, score[:, None], (0, step)),
        lengths=progress.lengths + ~finished,
        finished=finished | (chosen[:, None] == limits.ends[None]).any(-1),
    )
    return cast(Cache, output.cache), rectangles.whole(progress, plan.layout)


def _chosen(
    plan: Plan, logits: Float[Array, "batch vocab"], keys: Array, step: Int[Array, ""], limits: Limits
) -> Int[Array, " batch"]:
    """The next id of every row: drawn, or forced at a border of its text."""
    if not plan.forced:
        return draw(permitted(logits, limits.allowed), keys, step, plan.sampling)
    allowed = jnp.where(step == 0, limits.allowed_first, limits.allowed)
    chosen = draw(permitted(logits, allowed), keys, step, plan.sampling)
    border = jnp.where(step == 0, limits.first, jnp.where(step == limits.most - 1, limits.last, -1))
    return jnp.where(border >= 0, border, chosen)


def _show(progress: Progress, shown: np.ndarray, on_tokens: OnTokens) -> np.ndarray:
    """Hands every row's new tokens over; returns how many have been shown."""
    tokens, lengths = np.asarray(progress.tokens), np.asarray(progress.lengths).astype(np.int64)[: len(shown)]
    for row, (start, stop) in enumerate(zip(shown, lengths, strict=True)):
        if stop > start:
            on_tokens(row, tokens[row, start:stop].copy())
    return lengths


def _results(progress: Progress, count: int) -> list[Generated]:
    """The rows that were asked for, on the host.

    Raises:
      InputError: the model computed something that is not a number.
    """
    tokens, scores = np.asarray(progress.tokens), np.asarray(progress.log_probabilities)
    lengths, finished = np.asarray(progress.lengths), np.asarray(progress.finished)
    if not np.isfinite(scores[:count]).all():
        raise InputError(rectangles.NOT_FINITE)
    return [
        Generated(
            tokens=tokens[row, : lengths[row]].copy(),
            log_probabilities=scores[row, : lengths[row]].copy(),
            finished=bool(finished[row]),
        )
        for row in range(count)
    ]
