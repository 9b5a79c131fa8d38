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
from lm_jax.models.attention import Attention
from lm_jax.models.config import BlockConfig, InitConfig
from lm_jax.models.feedforward import FeedForward
from lm_jax.models.masks import Visibility
from lm_jax.models.norms import Norm
from lm_jax.parallel.layout import constrain


@flax.struct.dataclass
class Context:
    """What every layer of a call shares.

    Attributes:
      visibility: who sees whom among the tokens themselves.
      cross_visibility: which of the encoder's tokens may be seen.
      memory: the encoder's last hidden states; None once the cache holds their keys and values.
      bias: relative position bias of the scores, shared by all layers.
      index: first cache slot that this call writes.
    """

    visibility: Visibility
    cross_visibility: Visibility | None = None
    memory: Float[Array, "batch source embed"] | None | Any = None
    bias: Float[Array, "#batch heads query key"] | None | Any = None
    index: Int[Array, ""] | None | Any = None


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
        config = self.config
        if config.norm_placement not in ("pre", "post"):
            raise InputError(f"block.norm_placement is {config.norm_placement!r}; expected pre or post")
        kept: dict[str, Any] = {}

        def attention(y: jax.Array) -> jax.Array:
            attend = Attention(config.attention, self.init_config, self.dtype, self.residual_gain, name="attention")
            layer = None if cache is None else cache["self"]
            y, kept["self"] = attend(
                y, context.visibility, bias=context.bias, cache=layer, index=context.index, train=train
            )
            return y

        def cross(y: jax.Array) -> jax.Array:
            assert config.cross is not None and context.cross_visibility is not None
            attend = Attention(config.cross, self.init_config, self.dtype, self.residual_gain, name="cross")
            layer = None if cache is None else cache["cross"]
            y, kept["cross"] = attend(
                y, context.cross_visibility, memory=context.memory, cache=layer, cross=True, train=train
            )
            return y

        def feedforward(y: jax.Array) -> jax.Array:
            return FeedForward(
                config.feedforward, self.init_config, self.dtype, self.residual_gain, name="feedforward"
            )(y, train)

        x = self._branch(x, attention, "attention_norm", train)
        if config.cross is not None:
            x = self._branch(x, cross, "cross_norm", train)
        x = self._branch(x, feedforward, "feedforward_norm", train)
        return x, None if cache is None else kept

    def _branch(self, x: jax.Array, branch: Callable[[jax.Array], jax.Array], name: str, train: bool) -> jax.Array:
        """`x` with a branch added, normalised inside the branch (pre) or after the sum (post)."""
        norm = Norm(self.config.norm, name=name)
        drop = nn.Dropout(self.config.dropout, deterministic=not train)
        if self.config.norm_placement == "pre":
            return constrain(x + drop(branch(norm(x))), "batch", "length", None)
        return constrain(norm(x + drop(branch(x))), "batch", "length", None)
