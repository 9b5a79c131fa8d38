"""Batched generation with a KV cache, for decoders and encoder-decoders: one program for prefill, one for decoding.

Prompts of different lengths share a batch: a decoder's are padded on the left, an encoder-decoder's sources on the
right. Padding is masked and positions skip it, so a prompt's continuation does not depend on the rest of its batch.

Example:
  >>> from lm_jax import interop
  >>> from lm_jax.decode.sampling import GREEDY
  >>> module, params = interop.load("tests/golden/huggingface_gpt2")
  >>> options = dict(max_tokens=4, sampling=GREEDY, seed=0, pad=0, eos=None, bos=0)
  >>> generate(module, params, [[5, 6, 7]], **options)[0].tokens.tolist()
  [130, 130, 130, 130]
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
from lm_jax.models.config import EncoderDecoderConfig, TransformerConfig
from lm_jax.models.interface import Cache, Inputs
from lm_jax.models.model import Bound
from lm_jax.models.transformer import EncoderDecoder, Transformer
from lm_jax.parallel.layout import Layout

OnTokens = Callable[[int, np.ndarray], None]
Module = Transformer | EncoderDecoder


@dataclasses.dataclass(frozen=True)
class Generated:
    """The continuation of one prompt.

    Attributes:
      tokens: int32 ids, up to and including the first EOS.
      log_probabilities: float32, log P of each token given the previous ones, at temperature 1 and over the whole
        vocabulary, regardless of the sampling settings.
      finished: whether the text ended with EOS rather than at `max_tokens`.
    """

    tokens: np.ndarray
    log_probabilities: np.ndarray
    finished: bool


@flax.struct.dataclass
class Progress:
    """The tokens generated for a batch so far.

    Attributes:
      step: number of tokens of every unfinished row.
      last: the latest token of each row, the input of the next step.
      tokens: all generated tokens; padding after EOS.
      log_probabilities: log P of each of `tokens`.
      lengths: number of tokens of each row, including EOS.
      finished: whether a row has ended with EOS.
    """

    step: Int[Array, ""]
    last: Int[Array, " batch"]
    tokens: Int[Array, "batch room"]
    log_probabilities: Float[Array, "batch room"]
    lengths: Int[Array, " batch"]
    finished: Bool[Array, " batch"]


@flax.struct.dataclass
class Limits:
    """Constraints on the generated ids; arrays, so that new values do not recompile the programs.

    Attributes:
      allowed, allowed_first: ids allowed as any token, and as the first token.
      pad: id after the end of a text.
      ends: ids that end a text; -1: none.
      first, last: forced ids of the first token and of token number `most`; -1: not forced.
      most: the largest number of tokens per text, at most the plan's `room`.
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
    """Static arguments of the compiled programs.

    `room` is the number of slots for new tokens, rounded up to one of a few sizes; `forced` is whether the first or the
    last token has an additional constraint.
    """

    module: Module
    layout: Layout | None
    sampling: SamplingConfig
    room: int
    forced: bool


def generate(
    module: Module,
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
    openings: Sequence[Any] | None = None,
    numbers: Sequence[int] | None = None,
    forbidden: Sequence[int] = (),
    forbidden_first: Sequence[int] = (),
    first: int | None = None,
    last: int | None = None,
    on_tokens: OnTokens | None = None,
    chunk: int = 4,
    layout: Layout | None = None,
) -> list[Generated]:
    """Generates text: a decoder continues each prompt, an encoder-decoder reads it as its source.

    Args:
      module: a decoder or an encoder-decoder.
      params: its parameters, sharded or not; pass the result of `weights.unstacked` to save a copy per call.
      prompts: token ids of each prompt.
      max_tokens: the largest number of new tokens per prompt.
      sampling: temperature, top-k and top-p.
      seed: random seed; a draw depends on the seed, the prompt's number and the step, not on other prompts.
      pad: id of padding.
      eos: id or ids that end a text; None: texts end at `max_tokens` only.
      bos: id from which a decoder continues an empty prompt.
      start: first input id of an encoder-decoder's decoder; None: `pad`, as in T5.
      openings: for each prompt of an encoder-decoder, the token ids with which its output begins; None: none.
      numbers: of the prompts, for their draws; None: 0, 1, 2, ...
      forbidden: ids that are never generated.
      forbidden_first: ids that are not generated as the first token.
      first: forced first id.
      last: forced id of token number `max_tokens`, if the text has not ended before.
      on_tokens: called during generation with a prompt's number and its new tokens.
      chunk: steps between two calls of `on_tokens`.
      layout: the mesh of `params`, so that activations are sharded on it too.

    Raises:
      InputError: prompts that do not fit the model, or settings out of range.
    """
    config, vocab = module.config, module.config.embed.vocab or 0
    _check(config.kind, max_tokens, seed)
    sources = rectangles.token_arrays(prompts, vocab, "prompt")
    vocab = getattr(config, "decoder_vocab", None) or vocab
    if not sources:
        return []
    limits = _limits(vocab, pad, eos, (forbidden, forbidden_first), (first, last), max_tokens)
    count = rectangles.divisible(len(sources), layout)
    limit = rectangles.longest(config.embed, params)
    inputs = (
        _of_pairs(module, sources, openings, pad if start is None else start, count, max_tokens, pad, limit)
        if isinstance(config, EncoderDecoderConfig)
        else _of_prompts(cast(TransformerConfig, config), sources, count, max_tokens, pad, bos, limit)
    )
    forced = bool(forbidden_first) or first is not None or last is not None
    room = rectangles.bucket(max_tokens, limit)
    plan = Plan(module=module, layout=layout, sampling=sampling, room=room, forced=forced)
    prefill, decode = _programs(plan)
    params = unstacked(module, params)
    live = np.arange(count) < len(sources)
    order = np.arange(count, dtype=np.uint32)
    order[: len(sources)] = order[: len(sources)] if numbers is None else numbers
    cache, progress, keys, positions = prefill(params, inputs, limits, live, np.uint32(seed), order)
    reported = np.zeros(len(sources), np.int64)
    for stop in [max_tokens] if on_tokens is None else [*range(1, max_tokens, max(chunk, 1)), max_tokens]:
        if stop > 1:
            cache, progress = decode(params, cache, progress, limits, keys, positions, np.int32(stop))
        if on_tokens is not None:
            reported = _report(progress, reported, on_tokens)
        if np.asarray(progress.finished).all():
            break
    return _results(progress, len(sources))


def _check(kind: str, max_tokens: int, seed: int) -> None:
    if kind == "encoder":
        raise InputError("an encoder does not generate text; give it a prompt with masks to fill")
    if max_tokens < 1:
        raise InputError(f"--max_tokens is {max_tokens}; expected at least 1")
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed is {seed}; expected 0..{2**32 - 1}")


def _limits(
    vocab: int,
    pad: int,
    eos: int | Sequence[int] | None,
    forbidden: tuple[Sequence[int], Sequence[int]],
    forced: tuple[int | None, int | None],
    most: int,
) -> Limits:
    """The limits of `generate`; `forbidden` ids of every and of the first token, `forced` first and last ids."""
    ends = [-1] if eos is None else [eos] if isinstance(eos, int) else [*eos]
    first, last = (jnp.int32(-1 if token is None else token) for token in forced)
    return Limits(
        allowed=jnp.asarray(rectangles.allowed(forbidden[0], vocab)),
        allowed_first=jnp.asarray(rectangles.allowed([*forbidden[0], *forbidden[1]], vocab)),
        pad=jnp.int32(pad),
        ends=jnp.asarray(ends, jnp.int32),
        first=first,
        last=last,
        most=jnp.int32(most),
    )


def _of_pairs(
    module: Module,
    sources: list[np.ndarray],
    openings: Sequence[Any] | None,
    start: int,
    count: int,
    max_tokens: int,
    pad: int,
    limit: int | None,
) -> Inputs:
    """The inputs of an encoder-decoder's prefill, as numpy arrays; the decoder reads `start` and then the opening."""
    embed = module.config.embed
    openings = [[]] * len(sources) if openings is None else openings
    if len(openings) != len(sources):
        raise InputError(f"there are {len(openings)} openings for {len(sources)} prompts; expected one for each")
    vocab = getattr(module.config, "decoder_vocab", None) or embed.vocab or 0
    begun = [np.append(np.int32(start), row) for row in rectangles.token_arrays(openings, vocab, "opening")]
    most, longest = max(map(len, sources)), max(map(len, begun))
    if limit is not None and max(most, longest - 1 + max_tokens) > limit:
        opened = f" after an opening of {longest - 1}" if longest > 1 else ""
        raise InputError(
            f"a source has {most} tokens and --max_tokens is {max_tokens}{opened}, but config.model.embed.max_length "
            f"leaves room for {limit}; use at most {limit} for each"
        )
    tokens, segments = rectangles.right_padded(sources, count, rectangles.bucket(most, limit), pad)
    source = Inputs(tokens=tokens, segments=segments)
    width = rectangles.bucket(longest) if longest > 1 else 1
    tokens, positions, segments = rectangles.left_padded(begun, count, width, pad)
    return Inputs(tokens=tokens, positions=positions, segments=segments, source=source)


def _of_prompts(
    config: TransformerConfig,
    sources: list[np.ndarray],
    count: int,
    max_tokens: int,
    pad: int,
    bos: int,
    limit: int | None,
) -> Inputs:
    """The inputs of a decoder's prefill, as numpy arrays."""
    sources = [row if len(row) else np.array([bos], np.int32) for row in sources]
    most = max(map(len, sources))
    if limit is not None and most + max_tokens > limit:
        advice = f"use --max_tokens={limit - most} or " if most < limit else ""
        raise InputError(
            f"a prompt of {most} tokens and --max_tokens {max_tokens} make {most + max_tokens}, but "
            f"config.model.embed.max_length leaves room for {limit}; {advice}shorten the prompt"
        )
    tokens, positions, segments = rectangles.left_padded(sources, count, rectangles.bucket(most), pad)
    has_prefix = any(block.attention.mask == "prefix" for block in config.stack.blocks)
    prefix = segments.sum(1, dtype=np.int32) if has_prefix else None
    return Inputs(tokens=tokens, positions=positions, segments=segments, prefix=prefix)


@functools.lru_cache(maxsize=32)
def _programs(plan: Plan) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The compiled prefill, and the compiled decoding loop."""
    jit = jax.jit if plan.layout is None else plan.layout.jit
    # The cache is donated, so that it is updated in place.
    return jit(functools.partial(_prefill, plan)), jit(functools.partial(_decode, plan), donate_argnums=1)


def _prefill(
    plan: Plan, params: Params, inputs: Inputs, limits: Limits, live: Bool[Array, " batch"], seed: Array, numbers: Array
) -> tuple[Cache, Progress, Key[Array, " batch"], Int[Array, " batch"]]:
    """Reads the prompts and draws the first tokens; returns cache, progress, random keys and the tokens' positions."""
    count, length = inputs.tokens.shape
    source = 0 if inputs.source is None else inputs.source.tokens.shape[1]
    # One slot fewer than `room`: the last token is never an input.
    cache = Bound(plan.module, params).empty_cache(count, length + plan.room - 1, source)
    keys = row_keys(seed, numbers)
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


def _decode(
    plan: Plan,
    params: Params,
    cache: Cache,
    progress: Progress,
    limits: Limits,
    keys: Key[Array, " batch"],
    positions: Int[Array, " batch"],
    stop: Int[Array, ""],
) -> tuple[Cache, Progress]:
    """Generates until every row has `stop` tokens or has finished."""

    def unfinished(state: tuple[Cache, Progress]) -> Array:
        return (state[1].step < stop) & ~state[1].finished.all()

    def body(state: tuple[Cache, Progress]) -> tuple[Cache, Progress]:
        cache, progress = state
        tokens = progress.last[:, None]
        # `positions` are those of the first generated token, the input of step 1.
        current = (positions + progress.step - 1)[:, None]
        inputs = Inputs(tokens=tokens, positions=current, segments=jnp.ones_like(tokens))
        return _advance(plan, params, inputs, cache, progress, limits, keys)

    return jax.lax.while_loop(unfinished, body, (cache, progress))


def _advance(
    plan: Plan, params: Params, inputs: Inputs, cache: Cache, progress: Progress, limits: Limits, keys: Array
) -> tuple[Cache, Progress]:
    """Reads `inputs`, whose last column holds every row's latest token, and draws the next token of every row."""
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
    return cast(Cache, output.cache), rectangles.replicated(progress, plan.layout)


def _chosen(
    plan: Plan, logits: Float[Array, "batch vocab"], keys: Array, step: Int[Array, ""], limits: Limits
) -> Int[Array, " batch"]:
    """The next id of every row: drawn, unless the first or the last id of the text is forced."""
    if not plan.forced:
        return draw(permitted(logits, limits.allowed), keys, step, plan.sampling)
    allowed = jnp.where(step == 0, limits.allowed_first, limits.allowed)
    chosen = draw(permitted(logits, allowed), keys, step, plan.sampling)
    forced = jnp.where(step == 0, limits.first, jnp.where(step == limits.most - 1, limits.last, -1))
    return jnp.where(forced >= 0, forced, chosen)


def _report(progress: Progress, reported: np.ndarray, on_tokens: OnTokens) -> np.ndarray:
    """Calls `on_tokens` with every row's new tokens; returns the number of reported tokens per row."""
    tokens, lengths = np.asarray(progress.tokens), np.asarray(progress.lengths).astype(np.int64)[: len(reported)]
    for row, (start, stop) in enumerate(zip(reported, lengths, strict=True)):
        if stop > start:
            on_tokens(row, tokens[row, start:stop].copy())
    return lengths


def _results(progress: Progress, count: int) -> list[Generated]:
    """The first `count` rows (the others are padding); raises InputError if the model computed NaN or infinity."""
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
