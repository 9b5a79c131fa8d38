"""Encoders, decoders and encoder-decoders as Linen modules.

`build_transformer(config)` returns a module; `module.apply({"params": params}, Inputs(...))` returns an `Output`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm_jax.core.config import InputError
from lm_jax.models.attention import recurrence, two_stream
from lm_jax.models.attention.masks import Visibility
from lm_jax.models.attention.two_stream import QueryStream
from lm_jax.models.config import EmbedConfig, EncoderDecoderConfig, ModelConfig, StackConfig, TransformerConfig
from lm_jax.models.embed import Embed, TokenTable
from lm_jax.models.feedforward.experts import balance
from lm_jax.models.heads import BoundaryHead, DetectionHead, PairHead, Readout, TaskHead
from lm_jax.models.interface import Cache, Inputs, Output, Past, Shown, Transform
from lm_jax.models.norms import Norm
from lm_jax.models.stack.block import Context
from lm_jax.models.stack.layers import Stack, empty_cache, empty_past

# Top-level parameters that `readout` uses.
READOUT = ("token", "decoder_token", "head")
# Top-level parameters that hold the layers.
STACKS = ("stack", "encoder", "decoder")
# Top-level parameters that are token tables.
TABLES = ("token", "decoder_token")


def build_transformer(config: ModelConfig) -> Transformer | EncoderDecoder:
    """Builds the Linen module of a configuration.

    `module.init(key, inputs, method="everything")` initialises all parameters, also those that one call would not use;
    `module.apply({"params": params}, inputs)` returns an `Output`.

    Example:
      >>> from lm_jax.models.config import EmbedConfig, TransformerConfig
      >>> module = build_transformer(TransformerConfig(embed=EmbedConfig(vocab=100, width=16)))
      >>> inputs = Inputs(tokens=jnp.ones((1, 4), jnp.int32))
      >>> shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), inputs, method="everything"))["params"]
      >>> sorted(shapes)
      ['embed', 'final_norm', 'stack', 'token']
    """
    return EncoderDecoder(config) if isinstance(config, EncoderDecoderConfig) else Transformer(config)


class Transformer(nn.Module):
    """An encoder or a decoder: token table, position embedding, stack, final norm, readout."""

    config: TransformerConfig

    def setup(self):  # noqa: D102
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        self.token = TokenTable(config.embed, config.init, dtype)
        self.embed = Embed(config.embed, config.norm, config.init, dtype)
        self.stack = Stack(config.stack, config.init, dtype)
        if config.final_norm:
            self.final_norm = Norm(config.norm)
        self.head = Readout(config.readout, config.norm, config.init, dtype, config.embed.vocab or 0)
        if config.pair_classes:
            self.pair = PairHead(config.pair_classes, config.init, dtype, config.pair_activation)
        if config.detection:
            self.detect = DetectionHead(config.init, dtype, config.detection_activation)
        if config.boundary:
            self.boundary = BoundaryHead(config.boundary, config.boundary_width, config.norm, config.init, dtype)
        if config.two_stream:
            self.query_stream = QueryStream(config.embed, config.init, dtype)
        if config.task.exists:
            self.task = TaskHead(config.task, config.init, dtype)

    def __call__(
        self,
        inputs: Inputs,
        *,
        cache: Cache | Past | None = None,
        train: bool = False,
        logits: bool = False,
        show: tuple[str, ...] = (),
        transform: Transform | None = None,
    ) -> Output:
        """Computes the hidden states of a batch.

        Args:
          inputs: the batch.
          cache: keys and values, or a `Past`, of earlier tokens; the output's cache also has this call's tokens.
          train: whether to apply dropout (with an rng named `dropout`).
          logits: whether to compute the logits of every position.
          show: intermediate outputs to return: `hidden`, `attention`, `router`.
          transform: maps the parameters of one layer to those of its block; not applied outside the stack.
        """
        config = self.config
        if isinstance(cache, Past):
            config.check_relative("a Past")
        cache, visibility = _extend_cache(inputs, cache, typed=config.typed)
        x = _embed(self.embed, self.token, inputs, visibility, train)
        if inputs.targets is not None:
            if not config.two_stream:
                raise InputError("inputs.targets are for a query stream; set config.model.two_stream=True")
            visibility = two_stream.append_targets(visibility, inputs.targets, inputs.tokens.shape[1])
            x = self.query_stream(x, inputs.targets, train)
        if inputs.targets is not None and inputs.read is not None:
            raise InputError("inputs.targets and inputs.read both name the hidden states of the output; give one")
        index = cache.index if isinstance(cache, Cache) else None
        context = Context(visibility=visibility, index=index, read=inputs.read)
        layers, requested = None if cache is None else cache.layers, _requested(config.stack, show, train)
        x, layers, shown = self.stack(x, context, layers, train, transform=transform, show=requested)
        aux_loss = _balance(config.stack, shown, inputs, train)
        x = x if inputs.targets is None else x[:, inputs.tokens.shape[1] :]
        x = self.final_norm(x) if config.final_norm else x
        if isinstance(cache, Past):
            after = Past(jax.tree.map(functools.partial(recurrence.next_past, config.memory), cache.layers, layers))
        else:
            after = _advance(cache, layers, inputs)
        shown, vocab_logits = shown if show else None, self.readout(x) if logits else None
        return Output(hidden=x, cache=after, logits=vocab_logits, shown=shown, balance=aux_loss)

    def readout(self, hidden: Float[Array, "... embed"]) -> Float[Array, "... vocab"]:
        """Logits over the vocabulary of (gathered) hidden states."""
        return self.head(hidden, self.token)

    def candidate_logits(
        self, hidden: Float[Array, "... embed"], candidates: Int[Array, "... candidates"]
    ) -> Float[Array, "... candidates"]:
        """The logits of `readout` for each hidden state's own candidate ids."""
        return self.head(hidden, self.token, candidates)

    def pair_logits(self, first: Float[Array, "batch embed"]) -> Float[Array, "batch classes"]:
        """Logits of the sentence-pair classes from each row's first hidden state."""
        if not self.config.pair_classes:
            raise InputError("this model has no sentence-pair head; set config.model.pair_classes=2")
        return self.pair(first)

    def task_logits(self, hidden: Float[Array, "*batch embed"], train: bool = False) -> Float[Array, "*batch classes"]:
        """Logits of the task's head from (pooled) hidden states."""
        return self.task(hidden, train)

    def detect_logits(self, hidden: Float[Array, "... embed"]) -> Float[Array, " ..."]:
        """Log-odds that the token of each hidden state was replaced."""
        if not self.config.detection:
            raise InputError("this model has no head for replaced tokens; set config.model.detection=True")
        return self.detect(hidden)

    def boundary_states(
        self, before: Float[Array, "*batch embed"], after: Float[Array, "*batch embed"], distances: Int[Array, "*batch"]
    ) -> Float[Array, "*batch factor"]:
        """Hidden states, for `table_logits`, of tokens in a span, from the hidden states just outside of it."""
        if not self.config.boundary:
            raise InputError("this model has no span-boundary head; set config.model.boundary=20")
        return self.boundary(before, after, distances, self.token)

    def table_logits(self, hidden: Float[Array, "... factor"]) -> Float[Array, "... vocab"]:
        """Logits over the vocabulary of hidden states in the token table's width, without the readout's transform."""
        return self.head(hidden, self.token, transform=False)

    def everything(self, inputs: Inputs) -> Output:
        """Uses every parameter, so that `init` creates all of them."""
        output = self(inputs, logits=True)
        if self.config.boundary:
            self.boundary_states(output.hidden, output.hidden, jnp.zeros_like(inputs.tokens))
        if self.config.detection:
            self.detect_logits(output.hidden)
        if self.config.pair_classes:
            self.pair_logits(output.hidden[:, 0])
        if self.config.two_stream:
            self.query_stream(output.hidden, jnp.zeros_like(inputs.tokens[:, :1]))
        if self.config.task.exists:
            self.task_logits(jnp.tile(output.hidden[:, 0], self.config.task.states))
        return output

    def empty_cache(self, batch: int, slots: int, source: int = 0) -> Cache:
        """A KV cache for `slots` tokens of `batch` rows."""
        return _cache(self.config, self.config.stack, batch, slots, 0)

    def empty_past(self, batch: int, length: int = 0) -> Past:
        """The past before the first call on a text: `length` states of zeros."""
        config = self.config
        return Past(empty_past(config.stack, batch, length, config.embed.width, jnp.dtype(config.dtype)))


class EncoderDecoder(nn.Module):
    """An encoder and a decoder that attends to it; the encoder reads `inputs.source`."""

    config: EncoderDecoderConfig

    def setup(self):  # noqa: D102
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        self.token = TokenTable(config.embed, config.init, dtype)
        if not config.share_embed:
            self.decoder_token = TokenTable(_decoder_embed(config), config.init, dtype)
        self.encoder_embed = Embed(config.embed, config.norm, config.init, dtype)
        self.decoder_embed = Embed(config.embed, config.norm, config.init, dtype)
        self.encoder = Stack(config.encoder, config.init, dtype)
        self.decoder = Stack(config.decoder, config.init, dtype)
        if config.final_norm:
            self.encoder_norm = Norm(config.norm)
            self.decoder_norm = Norm(config.norm)
        self.head = Readout(config.readout, config.norm, config.init, dtype, _decoder_embed(config).vocab or 0)
        # T5 also applies dropout to a stack's output (Raffel et al. 2020, section 3.1.2), at the embeddings' rate.
        self.drop = nn.Dropout(config.embed.dropout)
        if config.task.exists:
            self.task = TaskHead(config.task, config.init, dtype)

    @property
    def decoder_table(self) -> TokenTable:
        """The decoder's token table, for its inputs and for tied logits."""
        return self.token if self.config.share_embed else self.decoder_token

    def encode(
        self, source: Inputs, train: bool = False, show: tuple[str, ...] = (), transform: Transform | None = None
    ) -> tuple[Float[Array, "batch source embed"], Shown | None]:
        """The encoder's last hidden states and, if requested, its intermediate outputs."""
        _, visibility = _extend_cache(source, None)
        x = _embed(self.encoder_embed, self.token, source, visibility, train)
        x, _, shown = self.encoder(x, Context(visibility=visibility), None, train, transform=transform, show=show)
        return self.drop(self.encoder_norm(x) if self.config.final_norm else x, deterministic=not train), shown

    def __call__(
        self,
        inputs: Inputs,
        *,
        cache: Cache | None = None,
        train: bool = False,
        logits: bool = False,
        show: tuple[str, ...] = (),
        transform: Transform | None = None,
    ) -> Output:
        """Computes the decoder's hidden states; arguments as in `Transformer`."""
        if inputs.source is None and cache is None:
            raise InputError("an encoder-decoder needs inputs.source, the tokens that its encoder reads")
        config, memory, encoder_shown, aux_loss = self.config, None, None, 0.0
        segments = cache.memory_segments if cache is not None else None
        if inputs.source is not None:
            requested = _requested(config.encoder, show, train)
            memory, encoder_shown = self.encode(inputs.source, train, requested, transform)
            aux_loss, segments = _balance(config.encoder, encoder_shown, inputs.source, train), inputs.source.real
            cache = None if cache is None else cache.replace(memory_segments=segments)  # type: ignore[attr-defined]
        cache, visibility = _extend_cache(inputs, cache)
        x = _embed(self.decoder_embed, self.decoder_table, inputs, visibility, train)
        cross, index = Visibility(key_segments=segments), None if cache is None else cache.index
        context = Context(visibility=visibility, cross_visibility=cross, memory=memory, index=index, read=inputs.read)
        layers, requested = None if cache is None else cache.layers, _requested(config.decoder, show, train)
        x, layers, shown = self.decoder(x, context, layers, train, transform=transform, show=requested)
        aux_loss = aux_loss + _balance(config.decoder, shown, inputs, train)
        x = self.drop(self.decoder_norm(x) if config.final_norm else x, deterministic=not train)
        shown = shown.replace(encoder=encoder_shown) if show else None  # type: ignore[union-attr]
        output = Output(hidden=x, cache=_advance(cache, layers, inputs), memory=memory, shown=shown, balance=aux_loss)
        return output.replace(logits=self.readout(x)) if logits else output  # type: ignore[attr-defined]

    def readout(self, hidden: Float[Array, "... embed"]) -> Float[Array, "... vocab"]:
        """Logits over the vocabulary of (gathered) hidden states."""
        return self.head(hidden, self.decoder_table)

    def task_logits(self, hidden: Float[Array, "*batch embed"], train: bool = False) -> Float[Array, "*batch classes"]:
        """Logits of the task's head from (pooled) hidden states."""
        return self.task(hidden, train)

    def everything(self, inputs: Inputs) -> Output:
        """Uses every parameter, so that `init` creates all of them."""
        output = self(inputs, logits=True)
        if self.config.task.exists:
            self.task_logits(jnp.tile(output.hidden[:, 0], self.config.task.states))
        return output

    def empty_cache(self, batch: int, slots: int, source: int = 0) -> Cache:
        """A KV cache for `slots` tokens of `batch` rows, and for cross-attention to `source` encoder tokens."""
        return _cache(self.config, self.config.decoder, batch, slots, source)


def _decoder_embed(config: EncoderDecoderConfig) -> EmbedConfig:
    return dataclasses.replace(config.embed, vocab=config.decoder_vocab or config.embed.vocab)


def _embed(
    embed: Embed, table: TokenTable, inputs: Inputs, visibility: Visibility, train: bool
) -> Float[Array, "batch length embed"]:
    rows = table(inputs.tokens) if inputs.embedded is None else inputs.embedded
    positions = visibility.query_positions if inputs.visible is None else inputs.positions
    return embed(rows, positions, inputs.types, train, inputs.real)


def _requested(stack: StackConfig, show: tuple[str, ...], train: bool) -> tuple[str, ...]:
    """Intermediate outputs to collect: `show`, and router logits if training balances the experts."""
    return tuple(dict.fromkeys((*show, "router"))) if train and stack.experts.balance else show


def _balance(stack: StackConfig, shown: Shown | None, inputs: Inputs, train: bool) -> Float[Array, ""] | float:
    """Load-balancing loss of a stack's experts times its coefficient; padding and unused targets do not count."""
    if not train or not stack.experts.balance or shown is None:
        return 0.0
    used = jnp.ones(inputs.tokens.shape, bool) if inputs.real is None else inputs.real > 0
    used = used if inputs.targets is None else jnp.concatenate([used, inputs.targets >= 0], 1)
    weights = used.reshape(-1).astype(jnp.float32)
    return stack.experts.balance * balance(jnp.stack(shown.router), stack.experts.top, weights)


def _extend_cache(inputs: Inputs, cache: Any, typed: bool = False) -> tuple[Any, Visibility]:
    """Returns the cache with this call's positions and segments, and the keys that its queries may attend to."""
    if not isinstance(cache, Cache):
        positions, types = inputs.positions, inputs.types if typed else None
        if inputs.visible is not None and positions is not None:
            positions = jax.lax.cummax(jnp.asarray(positions), axis=1)
        visibility = Visibility(
            prefix=inputs.prefix,
            query_positions=positions,
            key_positions=positions,
            query_segments=inputs.segments if inputs.visible is None else None,
            key_segments=inputs.real,
            query_types=types,
            key_types=types,
            self_visible=0 if inputs.unseen is None else inputs.tokens.shape[1],
            unseen=inputs.unseen,
            key_ranks=inputs.ranks,
            query_ranks=inputs.ranks,
            shared=inputs.shared,
            consecutive=inputs.visible is None and (positions is None or inputs.consecutive),
        )
        if cache is not None:
            visibility = recurrence.prepend_past(visibility, inputs.tokens.shape[1], cache.length)
        return cache, visibility
    uncacheable = (inputs.unseen, inputs.ranks, inputs.visible, inputs.targets, inputs.types if typed else None)
    if any(field is not None for field in uncacheable):
        raise InputError(
            "inputs.unseen, inputs.ranks, inputs.visible, inputs.targets and relative token types need all tokens in "
            "one call, but a cache was given, which stores keys and values only; leave out the cache or these inputs"
        )
    batch, length = inputs.tokens.shape
    query_positions = jnp.arange(length)[None] + cache.index if inputs.positions is None else inputs.positions
    query_positions = jnp.broadcast_to(query_positions, (batch, length)).astype(jnp.int32)
    segments = jnp.ones((batch, length), jnp.int32) if inputs.segments is None else inputs.segments.astype(jnp.int32)
    at = (jnp.zeros_like(cache.index), cache.index)
    write = lambda old, new: jax.lax.dynamic_update_slice(old, new, at)
    positions, key_segments = write(cache.positions, query_positions), write(cache.segments, segments)
    return cache.replace(positions=positions, segments=key_segments), Visibility(  # type: ignore[attr-defined]
        prefix=inputs.prefix,
        query_positions=query_positions,
        key_positions=positions,
        query_segments=segments,
        key_segments=key_segments,
        query_offset=cache.index,
        shared=inputs.shared,
    )


def _advance(cache: Cache | None, layers: object, inputs: Inputs) -> Cache | None:
    if cache is None:
        return None
    return cache.replace(index=cache.index + inputs.tokens.shape[1], layers=layers)  # type: ignore[attr-defined]


def _cache(config: ModelConfig, stack: StackConfig, batch: int, slots: int, source: int) -> Cache:
    layers = empty_cache(stack, batch, slots, source, config.embed.width, jnp.dtype(config.dtype))
    empty = jnp.zeros((batch, slots), jnp.int32)
    return Cache(index=jnp.zeros((), jnp.int32), positions=empty, segments=empty, layers=layers)
