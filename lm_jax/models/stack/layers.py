"""A stack of layers, scanned or unrolled; its parameters have a leading `layers` axis in the order of the layers.

The stack declares the parameters of all layers at once and applies its block to one layer's slice at a time. So scanned
and unrolled stacks have the same parameters, and a function of one layer's parameters can run inside the loop. The
division into loops (`segments`) does not affect parameters: `layers` holds all layers with the parameter shapes of
`config.block`, `KIND/layers` those of a kind with other shapes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lm_jax.core.trees import Params
from lm_jax.models import initializers, remat
from lm_jax.models.attention.disentangled import RelativePositionTable
from lm_jax.models.attention.relative import RelativeBias
from lm_jax.models.config import AttentionConfig, InitConfig, StackConfig
from lm_jax.models.heads import gather
from lm_jax.models.interface import Shown, Transform
from lm_jax.models.stack import segments, shown
from lm_jax.models.stack.block import Block, Context, narrows
from lm_jax.models.stack.loops import LOOPS, Apply, scanned

# The subtree with the last layers of a stack, if they are stored apart from the others (`adapt.last`).
APART = "apart"


class Stack(nn.Module):
    """A stack of `config.depth` layers."""

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
    ) -> tuple[Float[Array, "batch read embed"], Any, Shown | None]:
        """Returns the residual stream after the last layer, the new cache, and the intermediate outputs in `show`.

        The residual stream is that of the tokens `context.read`, or of all.
        `cache` is arranged as by `empty_cache` or `empty_past`. `transform` maps the parameters of one layer to
        those of its block, inside the loop.
        """
        config = self.config
        context = _add_positions(config, self.init_config, context, x)
        gain = initializers.residual_gain(self.init_config, config.depth)
        blocks = {
            kind: Block(block, self.init_config, self.dtype, gain, parent=None)
            for kind, block in segments.kinds(config).items()
        }
        groups = self._groups(blocks, x, context)
        keys = jax.random.split(self.make_rng("dropout"), config.depth) if train and self.has_rng("dropout") else None
        transform = transform or (lambda tree: tree)
        read, context = context.read, _reading(context, None)
        function = lambda block, context: self._apply(block, context, train, transform, show)
        functions = {kind: function(block, context) for kind, block in blocks.items()}
        unrolled, last = isinstance(groups.get(""), tuple) or not scanned(config), None
        if read is not None and unrolled and cache is None and not show:
            block = blocks[segments.layers(config)[-1].kind]
            last = function(block, _reading(context, read)) if narrows(block.config) else None
        loop = functools.partial(LOOPS["unrolled"], last=last) if unrolled else LOOPS["scanned"]
        apart = {} if self.is_initializing() else grouped(config, self.variables["params"].get(APART, {}))
        if apart:
            # The layers that a run does not train come first, in a loop of their own: no copy joins both.
            count = sum(len(jax.tree.leaves(tree)[0]) for tree in apart.values())
            first, config = segments.split(config, count)
            before, after_keys = (None, None) if keys is None else (keys[: first.depth], keys[first.depth :])
            x, _, earlier = LOOPS["unrolled" if unrolled else "scanned"](first, functions, groups, x, cache, before)
            after, cache, layers = loop(config, functions, apart, x, cache, after_keys)
            layers = [*earlier, *layers]
        else:
            after, cache, layers = loop(config, functions, groups, x, cache, keys)
        if read is not None and last is None:
            after = gather(after, read)
        return after, cache, shown.of_stack(show, x, layers)

    def _apply(self, block: Block, context: Context, train: bool, transform: Transform, show: tuple[str, ...]) -> Apply:
        """The block as a function of the arguments that differ between layers."""

        def layer(x, params, cache, key):
            rngs, params = None if key is None else {"dropout": key}, {"params": transform(params)}
            (x, cache), sown = block.apply(params, x, context, cache, train, rngs=rngs, mutable=list(show))
            return x, cache, shown.of_layer(show, sown)

        return remat.rematerialised(layer, self.config.remat)

    def _groups(self, blocks: dict[str, Block], x: jax.Array, context: Context) -> Params:
        """Parameters by group: "" for layers shaped as `config.block`, and each kind with other parameter shapes."""
        if not self.is_initializing():
            return grouped(self.config, self.variables["params"])
        separate = self._separate_kinds(blocks, x, context)
        groups = {}
        for group, owners in segments.parameter_groups(self.config, separate).items():
            block = blocks[group] if group else next(block for kind, block in blocks.items() if kind not in separate)
            draw = _draw(block, x, context, len(owners))
            if group:
                groups[group] = self.param(group, lambda key, draw=draw: {"layers": draw(key)})["layers"]
            else:
                groups[group] = self.param("layers", draw)
        return groups

    def _separate_kinds(self, blocks: dict[str, Block], x: jax.Array, context: Context) -> tuple[str, ...]:
        """The kinds whose parameter shapes differ from those of `config.block`."""
        kinds = [kind for kind in blocks if kind != "block"]
        if not kinds:
            return ()
        shapes = lambda block: jax.eval_shape(lambda: block.init(jax.random.key(0), x, context)["params"])
        default = shapes(blocks[kinds[0]].clone(config=self.config.block, parent=None))
        return tuple(kind for kind in kinds if shapes(blocks[kind]) != default)


def _reading(context: Context, read: jax.Array | None) -> Context:
    return context.replace(read=read)  # type: ignore[attr-defined]


def _add_positions(
    config: StackConfig, init_config: InitConfig, context: Context, x: Float[Array, "batch length embed"]
) -> Context:
    """Adds relative positions shared by all layers (parameters `relative`): T5's bias or DeBERTa's table."""
    attention, name = config.block.attention, "relative"
    if attention.position == "buckets" and attention.buckets.shared:
        bias = RelativeBias(attention, init_config, name=name)(context.visibility, *x.shape[1:])
        return context.replace(bias=bias)  # type: ignore[attr-defined]
    if attention.position == "disentangled":
        module = RelativePositionTable(attention.disentangled, config.block.norm, init_config, name=name)
        return context.replace(position_table=module(x.shape[-1]))  # type: ignore[attr-defined]
    return context


def _draw(block: Block, x: jax.Array, context: Context, count: int) -> Callable[[jax.Array], Any]:
    """An initializer of the parameters of `count` layers."""

    def draw(key):
        keys = jax.random.split(key, count)
        trees = jax.vmap(lambda key: block.init(key, x, context)["params"])(keys)
        return nn.meta.add_axis(trees, 0, {nn.PARTITION_NAME: "layers"})

    return draw


def grouped(config: StackConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a stack's layers by group: "" for `layers`, and the kind for `KIND/layers`."""
    groups = {kind: params[kind]["layers"] for kind in segments.kinds(config) if kind in params}
    return {"": params["layers"], **groups} if "layers" in params else groups


def empty_cache(config: StackConfig, batch: int, slots: int, source: int, width: int, dtype: jnp.dtype) -> Any:
    """Zeros for the keys and values of every layer: a tuple over layers or, in a scanned stack, over segments.

    Shapes are [repeats batch groups slots kv], without `repeats` in an unrolled stack, where a single row has no batch
    axis: on a CPU, XLA copies an array with such an axis several times in each iteration of the decoding loop.
    `source` is the number of encoder tokens, for cross-attention.
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

    return _arrange(config, layer)


def empty_past(config: StackConfig, batch: int, length: int, width: int, dtype: jnp.dtype) -> Any:
    """Zeros for each layer's inputs of `length` earlier tokens, arranged as in `empty_cache`."""
    return _arrange(config, lambda kind, lead: {"past": jnp.zeros((*lead, batch, length, width), dtype)})


def _arrange(config: StackConfig, zeros: Callable[[str, tuple[int, ...]], Any]) -> Any:
    """Calls `zeros` with the kind and leading axes of each layer, or of each layer of a segment's pattern."""
    if not scanned(config):
        return tuple(zeros(layer.kind, ()) for layer in segments.layers(config))
    return tuple(tuple(zeros(kind, (run.repeat,)) for kind in run.kinds) for run in segments.segments(config))
