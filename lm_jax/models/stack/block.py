"""One layer: attention, cross-attention, feed-forward layer, and the placement of norms."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm_jax.core.config import InputError, lookup
from lm_jax.models import adapted
from lm_jax.models.attention.convolution import Convolution
from lm_jax.models.attention.masks import Visibility
from lm_jax.models.attention.multi_head import Attention
from lm_jax.models.attention.relative import RelativeBias
from lm_jax.models.config import AttentionConfig, BlockConfig, InitConfig
from lm_jax.models.feedforward.dense import FeedForward
from lm_jax.models.feedforward.experts import Experts
from lm_jax.models.heads import gather
from lm_jax.models.norms import Norm
from lm_jax.models.remat import named
from lm_jax.models.stack.neighbours import Neighbours
from lm_jax.parallel.layout import constrain, divided


@flax.struct.dataclass
class Context:
    """Inputs of a call that all layers share.

    Attributes:
      visibility: the keys that each query may attend to in self-attention.
      cross_visibility: the encoder's tokens that each query may attend to.
      memory: the encoder's last hidden states; None once the cache holds their keys and values.
      bias: relative position bias of the scores.
      position_table: embeddings of relative positions.
      index: first cache slot that this call writes.
      read: tokens of which the layer returns the residual stream; None: all.
    """

    visibility: Visibility
    cross_visibility: Visibility | None = None
    memory: Float[Array, "batch source embed"] | None | Any = None
    bias: Float[Array, "#batch heads query key"] | None | Any = None
    position_table: Float[Array, "places embed"] | None | Any = None
    index: Int[Array, ""] | None | Any = None
    read: Int[Array, "batch read"] | None | Any = None


class Block(nn.Module):
    """One layer."""

    config: BlockConfig
    init_config: InitConfig
    dtype: jnp.dtype
    residual_gain: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length embed"], context: Context, cache: Any = None, train: bool = False
    ) -> tuple[Float[Array, "batch read embed"], Any]:
        """The residual stream after this layer, of the tokens `context.read`, and the layer's cache."""
        x = named(x, "residual")
        config, layer_input = self.config, x
        new_cache: dict[str, Any] = {}

        def attention(y: jax.Array) -> jax.Array:
            attend, old = self._attention(config.attention, "attention"), cache or {}
            keys_values, past = old.get("self"), old.get("past")
            if past is not None:
                new_cache["past"] = y[:, : context.visibility.tokens(y.shape[1])]
            options: dict[str, Any] = {"cache": keys_values, "past": past, "index": context.index, "train": train}
            if config.attention.position == "disentangled":
                options["position_table"] = nn.Dropout(config.dropout, deterministic=not train)(context.position_table)
            y, after = attend(y, context.visibility, bias=self._bias(y, context), **options)
            new_cache.update({} if keys_values is None else {"self": after})
            return y

        def cross(y: jax.Array) -> jax.Array:
            if config.cross is None or context.cross_visibility is None:
                raise InputError("a layer with cross-attention got no encoder output; call with Inputs(source=...)")
            attend, keys_values = self._attention(config.cross, "cross"), None if cache is None else cache["cross"]
            options: dict[str, Any] = {"memory": context.memory, "cache": keys_values, "cross": True, "train": train}
            y, new_cache["cross"] = attend(y, context.cross_visibility, **options)
            return y

        def feedforward(y: jax.Array) -> jax.Array:
            width = config.feedforward.convolution
            if width > 1:
                same_text = context.visibility.same_text(width - 1, y.shape[1], context.index)
                recent = None if cache is None else cache["feedforward"]["recent"]
                mixed, recent = Convolution(width, "single", name="feedforward_convolution")(
                    y[:, None], recent, same_text
                )
                y, new_cache["feedforward"] = mixed[:, 0], {"recent": recent}
            settings = (config.feedforward, self.init_config, self.dtype, self.residual_gain)
            layer = Experts if config.feedforward.experts.count else FeedForward
            return layer(*settings, name="feedforward")(y, train)

        branches = {"attention": attention, "cross": cross, "feedforward": feedforward}
        if config.cross is None:
            del branches["cross"]
        branches = {name: _on_whole_rows(self._with_adapter(name, branch)) for name, branch in branches.items()}
        x = lookup(PLACEMENTS, config.norm_placement, "block.norm_placement")(self, x, branches, train, context.read)
        if config.neighbours.width:
            settings = (config.neighbours, config.norm, self.init_config, self.dtype, config.dropout)
            x = Neighbours(*settings, name="neighbours")(layer_input, x, context.visibility.key_segments, train)
        self.sow("hidden", "stream", x)
        return x, None if cache is None else new_cache

    def _with_adapter(self, name: str, branch: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
        """The branch with its adapter, if the layer has one."""
        added = self.get_variable("params", "adapter", {}).get(name)
        return branch if added is None else lambda y: adapted.bottleneck(branch(y), added)

    def _attention(self, config: AttentionConfig, name: str) -> Attention:
        return Attention(config, self.init_config, self.dtype, self.residual_gain, self.config.norm, name=name)

    def _bias(self, x: jax.Array, context: Context) -> jax.Array | None:
        """The relative position bias of this layer, or the one that all layers share."""
        attention = self.config.attention
        if attention.position != "buckets" or attention.buckets.shared:
            return context.bias if attention.position == "buckets" else None
        return RelativeBias(attention, self.init_config, name="relative")(context.visibility, *x.shape[1:])

    def norm(self, name: str) -> Callable[[jax.Array], jax.Array]:
        """The norm called `name`; the identity for `attention_norm` if attention has no norm."""
        if name == "attention_norm" and not self.config.attention_norm:
            return lambda x: x
        return Norm(self.config.norm, name=name)

    def drop(self, train: bool) -> nn.Dropout:
        """Dropout of a branch's output, before it is added to the residual stream."""
        return nn.Dropout(self.config.dropout, deterministic=not train)


# A layer's branches by name, in order.
Branches = dict[str, Callable[[jax.Array], jax.Array]]


def _on_whole_rows(branch: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """The branch, before which the tokens of the residual stream are gathered, if they are divided over devices.

    Korthikanti et al. 2022 (arXiv:2205.05198), section 4.2.2. Of its own accord, XLA's partitioner may gather the
    products of the branch instead.
    """
    if not divided("stream"):
        return branch
    return lambda y: branch(constrain(y, "batch", "length", None))


def _stream(x: jax.Array, branch: Callable, norm: Callable, drop: Callable) -> jax.Array:
    y = norm("")(x)
    return y + drop(branch(y))


# The residual stream after one branch; `norm("")` is the branch's norm, `norm("_after")` its second norm.
RESIDUALS: dict[str, Callable[..., jax.Array]] = {
    "pre": lambda x, branch, norm, drop: x + drop(branch(norm("")(x))),
    "post": lambda x, branch, norm, drop: norm("")(x + drop(branch(x))),
    "sandwich": lambda x, branch, norm, drop: x + drop(norm("_after")(branch(norm("")(x)))),
    "stream": _stream,
}
# Inputs of attention and of the feed-forward layer if they run in parallel (Wang and Komatsuzaki 2021; PaLM,
# arXiv:2204.02311, section 2).
PARALLEL_INPUTS: dict[str, Callable[..., tuple[jax.Array, jax.Array]]] = {
    "parallel": lambda norm, x: (norm("attention_norm")(x),) * 2,
    "parallel_two": lambda norm, x: (norm("attention_norm")(x), norm("feedforward_norm")(x)),
}


def _sequential(
    name: str, block: Block, x: jax.Array, branches: Branches, train: bool, read: jax.Array | None
) -> jax.Array:
    axis = "stream"
    for branch_name, branch in branches.items():
        drop: Callable[[jax.Array], jax.Array] = block.drop(train)
        if branch_name == "feedforward" and read is not None:
            drop = _of_read(drop, x, read) if train and block.config.dropout else drop
            x, axis = gather(x, read), None
        norm = lambda suffix, branch_name=branch_name: block.norm(f"{branch_name}_norm{suffix}")
        x = named(constrain(RESIDUALS[name](x, branch, norm, drop), "batch", axis, None), "residual")
    return x


def _of_read(drop: Callable, x: jax.Array, read: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Dropout of the tokens that are read, which drops of them what it would drop among all."""
    factors = gather(drop(jnp.ones_like(x)), read)
    return lambda y: y * factors


def _parallel(name: str, block: Block, x: jax.Array, branches: Branches, train: bool, read: None) -> jax.Array:
    if read is not None:
        raise ValueError(
            f"block.norm_placement {name!r} computes all tokens; `narrows` says where some can be read alone"
        )
    if "cross" in branches:
        raise InputError(f"block.norm_placement {name!r} does not support block.cross; use pre, post or sandwich")
    drop, (y, z) = block.drop(train), PARALLEL_INPUTS[name](block.norm, x)
    x = x + drop(branches["attention"](y)) + drop(branches["feedforward"](z))
    return constrain(x, "batch", "stream", None)


# Each placement returns the residual stream after a layer's branches, of the tokens `read` if it has any.
PLACEMENTS: dict[str, Callable[..., jax.Array]] = {
    **{name: functools.partial(_sequential, name) for name in RESIDUALS},
    **{name: functools.partial(_parallel, name) for name in PARALLEL_INPUTS},
}


def narrows(config: BlockConfig) -> bool:
    """Whether a layer can return the residual stream of some tokens only.

    Its feed-forward layer reads no others and draws no random numbers for them, and no device holds a part of a row.
    """
    layer = config.feedforward
    reads_others = config.neighbours.width or layer.convolution > 1 or layer.experts.count or layer.dropout
    return config.norm_placement in RESIDUALS and not reads_others and not divided("stream", "length")
