"""The stack of layers: parameters with a leading `layers` axis, in the layers' order, scanned or unrolled.

The stack declares the parameters of all its layers at once and applies its block to one layer's slice at a time,
so that scanned and unrolled stacks have the same parameters, and so that a function of one layer's parameters can
act inside the loop. How a stack is cut into loops (`segments`) is no business of its parameters: `layers` holds all
layers that are shaped as `config.block`, and `KIND/layers` those of a kind whose parameters differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lm_jax.core.config import InputError
from lm_jax.models import cpu, initializers
from lm_jax.models.attention.disentangled import PlaceTable
from lm_jax.models.attention.relative import RelativeBias
from lm_jax.models.config import AttentionConfig, InitConfig, StackConfig
from lm_jax.models.stack import segments
from lm_jax.models.stack.block import Block, Context
from lm_jax.models.stack.segments import Segment

# Deeper stacks take too long to compile unrolled; shallower ones run faster so on a CPU.
DEEPEST_UNROLLED = 12

REMAT = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}

# A layer's function of the residual stream, its parameters, its cache and its random key.
Apply = Callable[[jax.Array, Any, Any, Any], tuple[jax.Array, Any]]


class Stack(nn.Module):
    """`config.depth` blocks, one after the other."""

    config: StackConfig
    init_config: InitConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length embed"], context: Context, cache: Any = None, train: bool = False
    ) -> tuple[Float[Array, "batch length embed"], Any]:
        """The residual stream after the last layer, and the cache of every layer."""
        config = self.config
        context = placed(config, self.init_config, context, x)
        gain = initializers.residual_gain(self.init_config, config.depth)
        blocks = {
            kind: Block(block, self.init_config, self.dtype, gain, parent=None)
            for kind, block in segments.kinds(config).items()
        }
        groups = self._groups(blocks, x, context)
        keys = None
        if train and self.has_rng("dropout"):
            keys = jax.random.split(self.make_rng("dropout"), config.depth)
        applies = {kind: self._apply(block, context, train) for kind, block in blocks.items()}
        if isinstance(groups.get(""), tuple):
            return _unrolled(config, applies, groups[""], x, cache, keys)
        if scanned(config):
            return _scanned(config, applies, groups, x, cache, keys)
        return _unrolled(config, applies, one_a_layer(config, groups), x, cache, keys)

    def _apply(self, block: Block, context: Context, train: bool) -> Apply:
        """A block as a function of what differs from layer to layer."""

        def layer(x, params, cache, key):
            rngs = None if key is None else {"dropout": key}
            return block.apply({"params": params}, x, context, cache, train, rngs=rngs)

        if self.config.remat == "none":
            return layer
        if self.config.remat not in REMAT:
            raise InputError(f"stack.remat is {self.config.remat!r}; expected none, {', '.join(REMAT)}")
        return jax.checkpoint(layer, policy=REMAT[self.config.remat])

    def _groups(self, blocks: dict[str, Block], x: jax.Array, context: Context) -> dict[str, Any]:
        """Parameters by group: "" and every kind whose parameters are shaped otherwise than those of `config.block`."""
        if not self.is_initializing():
            return grouped(self.config, self.variables["params"])
        apart = self._apart(blocks, x, context)
        groups = {}
        for group, owners in segments.owned(self.config, apart).items():
            block = blocks[group] if group else next(block for kind, block in blocks.items() if kind not in apart)
            draw = _draw(block, x, context, len(owners))
            if group:
                groups[group] = self.param(group, lambda key, draw=draw: {"layers": draw(key)})["layers"]
            else:
                groups[group] = self.param("layers", draw)
        return groups

    def _apart(self, blocks: dict[str, Block], x: jax.Array, context: Context) -> tuple[str, ...]:
        """The kinds whose parameters are shaped otherwise than those of `config.block`."""
        kinds = [kind for kind in blocks if kind != "block"]
        if not kinds:
            return ()
        shapes = lambda block: jax.eval_shape(lambda: block.init(jax.random.key(0), x, context)["params"])
        plain = shapes(blocks[kinds[0]].clone(config=self.config.block, parent=None))
        return tuple(kind for kind in kinds if shapes(blocks[kind]) != plain)


def placed(
    config: StackConfig,
    init_config: InitConfig,
    context: Context,
    x: Float[Array, "batch length embed"],
    params: Any = None,
) -> Context:
    """`context` with what all layers share of relative positions: T5's bias, DeBERTa's table.

    Args:
      config: the stack.
      init_config: how the table is drawn.
      context: what the layers share so far.
      x: the residual stream before the first layer.
      params: the stack's, outside of a module; None in a stack, which then holds the table as `relative`.
    """
    attention, name = config.block.attention, "relative"
    held = (lambda table: table) if params is None else (lambda table: table.bind({"params": params[name]}))
    if attention.position == "buckets" and attention.buckets.shared:
        bias = held(RelativeBias(attention, init_config, name=name))(context.visibility, *x.shape[1:])
        return context.replace(bias=bias)  # type: ignore[attr-defined]
    if attention.position == "disentangled":
        places = held(PlaceTable(attention.disentangled, config.block.norm, init_config, name=name))(x.shape[-1])
        return context.replace(places=places)  # type: ignore[attr-defined]
    return context


def _draw(block: Block, x: jax.Array, context: Context, count: int) -> Callable[[jax.Array], Any]:
    """Draws the parameters of `count` layers."""

    def draw(key):
        keys = jax.random.split(key, count)
        trees = jax.vmap(lambda key: block.init(key, x, context)["params"])(keys)
        return nn.meta.add_axis(trees, 0, {nn.PARTITION_NAME: "layers"})

    return draw


def scanned(config: StackConfig) -> bool:
    """Whether the stack loops over compiled layers."""
    if config.scan not in ("auto", "always", "never"):
        raise InputError(f"stack.scan is {config.scan!r}; expected auto, always or never")
    if config.scan == "auto":
        return config.depth > DEEPEST_UNROLLED or not cpu.here()
    return config.scan == "always"


def unstack(tree: Any, depth: int) -> tuple[Any, ...]:
    """A tree with a leading `layers` axis as one tree a layer."""
    # split's gradient is one concatenation; indexing's would be `depth` sums over the whole tree.
    parts = jax.tree.map(lambda leaf: [part[0] for part in jnp.split(leaf, depth, axis=0)], tree)
    is_parts = lambda node: isinstance(node, list)
    pick = lambda layer: jax.tree.map(lambda part: part[layer], parts, is_leaf=is_parts)
    return tuple(map(pick, range(depth)))


def grouped(config: StackConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a stack's layers by where they are stored: "" is `layers`, a kind `KIND/layers`."""
    groups = {kind: params[kind]["layers"] for kind in segments.kinds(config) if kind in params}
    return {"": params["layers"], **groups} if "layers" in params else groups


def one_a_layer(config: StackConfig, groups: dict[str, Any]) -> tuple[Any, ...]:
    """The parameters of every layer, a tree each, from those of the whole stack by group."""
    trees: dict[str, dict[int, Any]] = {}
    for group, owners in segments.owned(config, tuple(filter(None, groups))).items():
        trees[group] = dict(zip(owners, unstack(groups[group], len(owners)), strict=True))
    where = lambda layer: layer.kind if layer.kind in groups else ""
    return tuple(trees[where(layer)][layer.owner] for layer in segments.layers(config))


def empty_cache(config: StackConfig, batch: int, slots: int, source: int, width: int, dtype: jnp.dtype) -> Any:
    """Zeros for the keys and values of every layer: a tuple of layers, or of segments where the stack is scanned.

    They are [turns batch groups slots kv], without turns where the stack is unrolled, and there without an axis for a
    single row: XLA copies an array with such an axis several times in each turn of a loop on a CPU.

    Args:
      config: the stack.
      batch: rows.
      slots: tokens that fit.
      source: the encoder's tokens, for cross-attention; 0 without an encoder.
      width: width of the residual stream.
      dtype: of keys and values.
    """

    def pair(attention: AttentionConfig, length: int, lead: tuple[int, ...]) -> dict[str, jax.Array]:
        groups, before = attention.kv_heads or attention.heads, attention.convolution - 1
        zeros = lambda rows, heads, slots: jnp.zeros((*rows, heads, slots, attention.head_width(width)), dtype)
        rows = (*lead, batch) if lead or batch > 1 else ()
        recent = {"query": attention.heads, "key": groups, "value": groups} if before else {}
        return {
            "key": zeros(rows, groups, length),
            "value": zeros(rows, groups, length),
            **{f"{name}_recent": zeros((*lead, batch), heads, before) for name, heads in recent.items()},
        }

    def layer(kind: str, lead: tuple[int, ...]) -> Any:
        block = config.kind(kind)
        cache = {"self": pair(block.attention, slots, lead)}
        if block.cross is not None:
            cache["cross"] = pair(block.cross, source, lead)
        if (before := block.feedforward.convolution - 1) > 0:
            cache["feedforward"] = {"recent": jnp.zeros((*lead, batch, 1, before, width), dtype)}
        return cache

    return _arranged(config, layer)


def empty_past(config: StackConfig, batch: int, length: int, width: int, dtype: jnp.dtype) -> Any:
    """Zeros for the states of `length` tokens that every layer read, arranged as those of `empty_cache`."""
    return _arranged(config, lambda kind, lead: {"past": jnp.zeros((*lead, batch, length, width), dtype)})


def _arranged(config: StackConfig, layer: Callable[[str, tuple[int, ...]], Any]) -> Any:
    """What `layer` makes of each layer's kind and leading axes."""
    if not scanned(config):
        return tuple(layer(one.kind, ()) for one in segments.layers(config))
    return tuple(tuple(layer(kind, (one.repeat,)) for kind in one.kinds) for one in segments.segments(config))


def _unrolled(
    config: StackConfig, applies: dict[str, Apply], params: tuple[Any, ...], x: jax.Array, cache: Any, keys: Any
) -> tuple[jax.Array, Any]:
    kept = []
    for index, (layer, part) in enumerate(zip(segments.layers(config), params, strict=True)):
        one = None if cache is None else cache[index]
        x, one = applies[layer.kind](x, part, one, None if keys is None else keys[index])
        kept.append(one)
    return x, None if cache is None else tuple(kept)


def _scanned(
    config: StackConfig, applies: dict[str, Apply], groups: dict[str, Any], x: jax.Array, cache: Any, keys: Any
) -> tuple[jax.Array, Any]:
    """One loop a segment, whose body applies one turn of its layers."""
    owners, kept = segments.owned(config, tuple(filter(None, groups))), []
    for number, segment in enumerate(segments.segments(config)):
        # The group of every layer of a turn, and the part of each group that the segment uses.
        held = [kind if kind in groups else "" for kind in segment.kinds]
        first = {group: segment.owners[held.index(group)] for group in held}
        parts = {
            group: _part(segment, groups[group], held.count(group), owners[group].index(owner))
            for group, owner in first.items()
        }
        turn = _turn(segment, applies, held)
        own = None if keys is None else keys[segment.start : segment.start + segment.repeat * len(held)]
        own = None if own is None else own.reshape(segment.repeat, len(held))
        layer_cache = None if cache is None else cache[number]
        if segment.shared:
            body = lambda x, slices, turn=turn, parts=parts: turn(x, parts, *slices)
            x, after = jax.lax.scan(body, x, (layer_cache, own), length=segment.repeat)
        else:
            body = lambda x, slices, turn=turn: turn(x, *slices)
            x, after = jax.lax.scan(body, x, (parts, layer_cache, own))
        kept.append(after)
    return x, None if cache is None else tuple(kept)


def _turn(segment: Segment, applies: dict[str, Apply], held: list[str]) -> Callable[..., tuple[jax.Array, Any]]:
    """One turn of a segment, as a function of the residual stream, parameters by group, caches and keys."""

    def turn(x, params, caches, keys):
        kept = []
        for index, (kind, group) in enumerate(zip(segment.kinds, held, strict=True)):
            rank, mine = held[:index].count(group), params[group]
            if held.count(group) > 1:
                mine = jax.tree.map(lambda leaf, rank=rank: leaf[rank], mine)
            cache = None if caches is None else caches[index]
            x, one = applies[kind](x, mine, cache, None if keys is None else keys[index])
            kept.append(one)
        return x, None if caches is None else tuple(kept)

    return turn


def _part(segment: Segment, tree: Any, count: int, start: int) -> Any:
    """The parameters that a segment takes of a group, `count` layers a turn from the group's layer `start` on.

    With a leading axis of turns unless they are shared, and one of layers in a turn where there are several.
    """
    repeat = 1 if segment.shared else segment.repeat
    lead = (*(() if segment.shared else (repeat,)), *(() if count == 1 else (count,)))

    def cut(leaf):
        stop = start + repeat * count
        part = leaf if (start, stop) == (0, leaf.shape[0]) else leaf[start:stop]
        return part.reshape(*lead, *leaf.shape[1:])

    return jax.tree.map(cut, tree)
