"""The stack of layers: one set of parameters per kind of layer, with a leading `layers` axis, scanned or unrolled.

The stack declares the parameters of all its layers at once and applies its block to one layer's slice at a time,
so that scanned and unrolled stacks have the same parameters, and so that a function of one layer's parameters can
act inside the loop.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lm_jax.core.config import InputError
from lm_jax.models import initializers, positions
from lm_jax.models.block import Block, Context
from lm_jax.models.config import AttentionConfig, BucketConfig, InitConfig, StackConfig
from lm_jax.models.masks import Visibility

# Deeper stacks take too long to compile unrolled; shallower ones run faster so on a CPU.
DEEPEST_UNROLLED = 12

REMAT = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


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
        config, attention = self.config, self.config.block.attention
        if attention.position == "buckets":
            relative = RelativeBias(attention.buckets, attention.heads, self.init_config, name="relative")
            bias = relative(context.visibility, *x.shape[1:], two_sided=attention.mask != "causal")
            context = context.replace(bias=bias)  # type: ignore[attr-defined]
        gain = initializers.residual_gain(self.init_config, config.depth)
        block = Block(config.block, self.init_config, self.dtype, gain, parent=None)
        params = self._layers(block, x, context)
        keys = None
        if train and self.has_rng("dropout"):
            keys = jax.random.split(self.make_rng("dropout"), config.depth)

        def layer(x, params, cache, key):
            rngs = None if key is None else {"dropout": key}
            return block.apply({"params": params}, x, context, cache, train, rngs=rngs)

        if config.remat != "none":
            if config.remat not in REMAT:
                raise InputError(f"stack.remat is {config.remat!r}; expected none, {', '.join(REMAT)}")
            layer = jax.checkpoint(layer, policy=REMAT[config.remat])
        if isinstance(params, tuple):
            return _unrolled(layer, x, params, cache, keys)
        if scanned(config):
            return jax.lax.scan(lambda x, part: layer(x, *part), x, (params, cache, keys))
        return _unrolled(layer, x, unstack(params, config.depth), cache, keys)

    def _layers(self, block: Block, x: jax.Array, context: Context) -> Any:
        """Parameters of all layers: a tree with a leading `layers` axis, or a tuple of one tree a layer."""
        if not self.is_initializing():
            return self.get_variable("params", "layers")

        def draw(key):
            keys = jax.random.split(key, self.config.depth)
            trees = jax.vmap(lambda key: block.init(key, x, context)["params"])(keys)
            return nn.meta.add_axis(trees, 0, {nn.PARTITION_NAME: "layers"})

        return self.param("layers", draw)


class RelativeBias(nn.Module):
    """A bias per head and bucket of relative position, learned once and used by all layers (Raffel et al. 2020)."""

    config: BucketConfig
    heads: int
    init_config: InitConfig

    @nn.compact
    def __call__(
        self, visibility: Visibility, length: int, width: int, *, two_sided: bool
    ) -> Float[Array, "#batch heads query key"]:
        """The bias of every query and key of `length` tokens, in a model of `width`."""
        draw = initializers.kernel(self.init_config, width, self.heads)
        table = initializers.parameter(self, "table", draw, (None, "heads"), (self.config.buckets, self.heads))
        query, key = visibility.query_positions, visibility.key_positions
        query = jnp.arange(length)[None] if query is None else query
        key = jnp.arange(length)[None] if key is None else key
        buckets = positions.bucket(key[:, None, :] - query[:, :, None], self.config, two_sided=two_sided)
        # A matrix product with one-hot rows: a gather's gradient would be a slow scatter.
        return jnp.einsum("bqkn,nh->bhqk", jax.nn.one_hot(buckets, self.config.buckets), table)


def scanned(config: StackConfig) -> bool:
    """Whether the stack loops over one compiled layer."""
    if config.scan not in ("auto", "always", "never"):
        raise InputError(f"stack.scan is {config.scan!r}; expected auto, always or never")
    if config.scan == "auto":
        return config.depth > DEEPEST_UNROLLED or jax.default_backend() != "cpu"
    return config.scan == "always"


def unstack(tree: Any, depth: int) -> tuple[Any, ...]:
    """A tree with a leading `layers` axis as one tree a layer."""
    # split's gradient is one concatenation; indexing's would be `depth` sums over the whole tree.
    parts = jax.tree.map(lambda leaf: [part[0] for part in jnp.split(leaf, depth, axis=0)], tree)
    is_parts = lambda node: isinstance(node, list)
    pick = lambda layer: jax.tree.map(lambda part: part[layer], parts, is_leaf=is_parts)
    return tuple(map(pick, range(depth)))


def empty_cache(config: StackConfig, batch: int, slots: int, source: int, width: int, dtype: jnp.dtype) -> Any:
    """Zeros for the keys and values of every layer.

    Args:
      config: the stack.
      batch: rows.
      slots: tokens that fit.
      source: the encoder's tokens, for cross-attention; 0 without an encoder.
      width: width of the residual stream.
      dtype: of keys and values.
    """

    def pair(attention: AttentionConfig, length: int, lead: tuple[int, ...]) -> dict[str, jax.Array]:
        shape = (*lead, batch, attention.kv_heads or attention.heads, length, attention.head_width(width))
        return {"key": jnp.zeros(shape, dtype), "value": jnp.zeros(shape, dtype)}

    def layer(lead: tuple[int, ...]) -> Any:
        cache = {"self": pair(config.block.attention, slots, lead)}
        if config.block.cross is not None:
            cache["cross"] = pair(config.block.cross, source, lead)
        return cache

    return layer((config.depth,)) if scanned(config) else tuple(layer(()) for _ in range(config.depth))


def _unrolled(layer, x, params: tuple[Any, ...], cache: Any, keys: Any) -> tuple[jax.Array, Any]:
    kept = []
    for index, part in enumerate(params):
        x, one = layer(x, part, None if cache is None else cache[index], None if keys is None else keys[index])
        kept.append(one)
    return x, None if cache is None else tuple(kept)
