"""The stack of layers: parameters with a leading `layers` axis, in the layers' order, scanned or unrolled.

The stack declares the parameters of all its layers at once and applies its block to one layer's slice at a time,
so that scanned and unrolled stacks have the same parameters, and so that a function of one layer's parameters can
act inside the loop. How a stack is cut into loops (`segments`) is no business of its parameters: `layers` holds all
layers that are shaped as `config.block`, and `KIND/layers` those of a kind whose parameters differ.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lm_jax.core.config import lookup
from lm_jax.core.trees import Params
from lm_jax.models import initializers
from lm_jax.models.attention.disentangled import PlaceTable
from lm_jax.models.attention.relative import RelativeBias
from lm_jax.models.config import AttentionConfig, InitConfig, StackConfig
from lm_jax.models.interface import Shown, Transform
from lm_jax.models.stack import segments, shown
from lm_jax.models.stack.block import Block, Context
from lm_jax.models.stack.loops import LOOPS, Apply, scanned

REMAT: dict[str, Callable[[Apply], Apply]] = {
    "none": lambda layer: layer,
    "full": jax.checkpoint,
    "dots": functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable),
}


class Stack(nn.Module):
    """`config.depth` blocks, one after the other."""

    config: StackConfig
    init_config: InitConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        context: Context,
        cache: Any = None,
        train: bool = False,
        *,
        transform: Transform | None = None,
        show: tuple[str, ...] = (),
    ) -> tuple[Float[Array, "batch length embed"], Any, Shown | None]:
        """The residual stream after the last layer, the cache of every layer, and what `show` asks for.

        Args:
          x: the residual stream before the first layer.
          context: what the layers share.
          cache: of every layer, as `empty_cache` or `empty_past` arranges it.
          train: whether dropout acts.
          transform: makes of one layer's parameters those that its block gets; called inside the loop.
          show: names in `shown.SHOWN`.
        """
        config = self.config
        context = _placed(config, self.init_config, context, x)
        gain = initializers.residual_gain(self.init_config, config.depth)
        blocks = {
            kind: Block(block, self.init_config, self.dtype, gain, parent=None)
            for kind, block in segments.kinds(config).items()
        }
        groups = self._groups(blocks, x, context)
        keys = None
        if train and self.has_rng("dropout"):
            keys = jax.random.split(self.make_rng("dropout"), config.depth)
        applies = {
            kind: self._apply(block, context, train, transform or (lambda tree: tree), show)
            for kind, block in blocks.items()
        }
        apart = isinstance(groups.get(""), tuple)
        loop = LOOPS["scanned" if scanned(config) and not apart else "unrolled"]
        after, cache, layers = loop(config, applies, groups, x, cache, keys)
        return after, cache, shown.of_stack(show, x, layers)

    def _apply(self, block: Block, context: Context, train: bool, transform: Transform, show: tuple[str, ...]) -> Apply:
        """A block as a function of what differs from layer to layer."""

        def layer(x, params, cache, key):
            rngs, params = None if key is None else {"dropout": key}, {"params": transform(params)}
            (x, cache), sown = block.apply(params, x, context, cache, train, rngs=rngs, mutable=list(show))
            return x, cache, shown.of_layer(show, sown)

        return lookup(REMAT, self.config.remat, "stack.remat")(layer)

    def _groups(self, blocks: dict[str, Block], x: jax.Array, context: Context) -> Params:
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


def _placed(
    config: StackConfig, init_config: InitConfig, context: Context, x: Float[Array, "batch length embed"]
) -> Context:
    """`context` with what all layers share of relative positions, as `relative`: T5's bias, DeBERTa's table."""
    attention, name = config.block.attention, "relative"
    if attention.position == "buckets" and attention.buckets.shared:
        bias = RelativeBias(attention, init_config, name=name)(context.visibility, *x.shape[1:])
        return context.replace(bias=bias)  # type: ignore[attr-defined]
    if attention.position == "disentangled":
        places = PlaceTable(attention.disentangled, config.block.norm, init_config, name=name)(x.shape[-1])
        return context.replace(places=places)  # type: ignore[attr-defined]
    return context


def _draw(block: Block, x: jax.Array, context: Context, count: int) -> Callable[[jax.Array], Any]:
    """Draws the parameters of `count` layers."""

    def draw(key):
        keys = jax.random.split(key, count)
        trees = jax.vmap(lambda key: block.init(key, x, context)["params"])(keys)
        return nn.meta.add_axis(trees, 0, {nn.PARTITION_NAME: "layers"})

    return draw


def grouped(config: StackConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a stack's layers by where they are stored: "" is `layers`, a kind `KIND/layers`."""
    groups = {kind: params[kind]["layers"] for kind in segments.kinds(config) if kind in params}
    return {"": params["layers"], **groups} if "layers" in params else groups


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
