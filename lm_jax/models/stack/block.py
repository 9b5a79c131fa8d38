"""One layer: attention, cross-attention in a decoder that has an encoder, feed-forward, and where the norms stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm_jax.core.config import InputError
from lm_jax.models.attention.convolution import Convolution
from lm_jax.models.attention.masks import Visibility
from lm_jax.models.attention.multi_head import Attention
from lm_jax.models.attention.relative import RelativeBias
from lm_jax.models.config import AttentionConfig, BlockConfig, InitConfig
from lm_jax.models.feedforward.dense import FeedForward
from lm_jax.models.feedforward.experts import Experts
from lm_jax.models.norms import Norm
from lm_jax.models.stack.neighbours import Neighbours
from lm_jax.parallel.layout import constrain


@flax.struct.dataclass
class Context:
    """What every layer of a call shares.

    Attributes:
      visibility: who sees whom among the tokens themselves.
      cross_visibility: which of the encoder's tokens may be seen.
      memory: the encoder's last hidden states; None once the cache holds their keys and values.
      bias: relative position bias of the scores, shared by all layers.
      places: relative positions as embeddings, shared by all layers.
      index: first cache slot that this call writes.
    """

    visibility: Visibility
    cross_visibility: Visibility | None = None
    memory: Float[Array, "batch source embed"] | None | Any = None
    bias: Float[Array, "#batch heads query key"] | None | Any = None
    places: Float[Array, "places embed"] | None | Any = None
    index: Int[Array, ""] | None | Any = None


PLACEMENTS = ("pre", "post", "sandwich", "stream", "parallel", "parallel_two")


class Block(nn.Module):
    """One layer of a stack of `depth`."""

    config: BlockConfig
    init_config: InitConfig
    dtype: jnp.dtype
    residual_gain: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length embed"], context: Context, cache: Any = None, train: bool = False
    ) -> tuple[Float[Array, "batch length embed"], Any]:
        """The residual stream after this layer, and the layer's cache."""
        config, read = self.config, x
        if config.norm_placement not in PLACEMENTS:
            known = ", ".join(PLACEMENTS)
            raise InputError(f"block.norm_placement is {config.norm_placement!r}; expected one of {known}")
        kept: dict[str, Any] = {}

        def attention(y: jax.Array) -> jax.Array:
            attend, held = self._attention(config.attention, "attention"), cache or {}
            own, past = held.get("self"), held.get("past")
            if past is not None:
                kept["past"] = y[:, : context.visibility.tokens(y.shape[1])]
            shared: dict[str, Any] = {"cache": own, "past": past, "index": context.index, "train": train}
            if config.attention.position == "disentangled":
                shared["places"] = nn.Dropout(config.dropout, deterministic=not train)(context.places)
            y, after = attend(y, context.visibility, bias=self._bias(y, context), **shared)
            kept.update({} if own is None else {"self": after})
            return y

        def cross(y: jax.Array) -> jax.Array:
            if config.cross is None or context.cross_visibility is None:
                raise InputError("a layer reads an encoder's output, and there is none; call with Inputs(source=...)")
            layer, attend = None if cache is None else cache["cross"], self._attention(config.cross, "cross")
            y, kept["cross"] = attend(
                y, context.cross_visibility, memory=context.memory, cache=layer, cross=True, train=train
            )
            return y

        def feedforward(y: jax.Array) -> jax.Array:
            width = config.feedforward.convolution
            if width > 1:
                near = context.visibility.near(width - 1, y.shape[1], context.index)
                recent = None if cache is None else cache["feedforward"]["recent"]
                mixed, recent = Convolution(width, "single", name="feedforward_convolution")(y[:, None], recent, near)
                y, kept["feedforward"] = mixed[:, 0], {"recent": recent}
            layer = Experts if config.feedforward.experts.count else FeedForward
            return layer(config.feedforward, self.init_config, self.dtype, self.residual_gain, name="feedforward")(
                y, train
            )

        if config.norm_placement in ("parallel", "parallel_two"):
            x = self._parallel(x, attention, feedforward, train)
        else:
            x = self._branch(x, attention, "attention_norm", train)
            if config.cross is not None:
                x = self._branch(x, cross, "cross_norm", train)
            x = self._branch(x, feedforward, "feedforward_norm", train)
        if config.neighbours.width:
            beside = Neighbours(
                config.neighbours, config.norm, self.init_config, self.dtype, config.dropout, name="neighbours"
            )
            x = beside(read, x, context.visibility.key_segments, train)
        return x, None if cache is None else kept

    def _attention(self, config: AttentionConfig, name: str) -> Attention:
        return Attention(config, self.init_config, self.dtype, self.residual_gain, self.config.norm, name=name)

    def _bias(self, x: jax.Array, context: Context) -> jax.Array | None:
        """The relative position bias of this layer: of its own, of the stack, or none."""
        attention = self.config.attention
        if attention.position != "buckets" or attention.buckets.shared:
            return context.bias if attention.position == "buckets" else None
        return RelativeBias(attention, self.init_config, name="relative")(context.visibility, *x.shape[1:])

    def _branch(self, x: jax.Array, branch: Callable[[jax.Array], jax.Array], name: str, train: bool) -> jax.Array:
        """`x` with a branch added, normalised inside the branch (pre), after the sum (post), or otherwise."""
        placement, drop = self.config.norm_placement, nn.Dropout(self.config.dropout, deterministic=not train)
        norm = self._norm(name)
        if placement == "post":
            return constrain(norm(x + drop(branch(x))), "batch", "stream", None)
        y = norm(x)
        x, y = y if placement == "stream" else x, branch(y)
        y = self._norm(f"{name}_after")(y) if placement == "sandwich" else y
        return constrain(x + drop(y), "batch", "stream", None)

    def _parallel(self, x: jax.Array, attention: Callable, feedforward: Callable, train: bool) -> jax.Array:
        """`x` with both branches added at once (Wang and Komatsuzaki 2021; PaLM, arXiv:2204.02311, section 2)."""
        if self.config.cross is not None:
            raise InputError(
                f"block.norm_placement is {self.config.norm_placement!r}, which has no place for block.cross; use pre, "
                "post or sandwich"
            )
        drop = nn.Dropout(self.config.dropout, deterministic=not train)
        y = z = self._norm("attention_norm")(x)
        if self.config.norm_placement == "parallel_two":
            z = self._norm("feedforward_norm")(x)
        return constrain(x + drop(attention(y)) + drop(feedforward(z)), "batch", "stream", None)

    def _norm(self, name: str) -> Callable[[jax.Array], jax.Array]:
        if name == "attention_norm" and not self.config.attention_norm:
            return lambda x: x
        return Norm(self.config.norm, name=name)
