"""Two-stream self-attention (Yang et al. 2019, arXiv:1906.08237, section 2.3), as one stream in an ordinary stack.

The query stream stands behind the tokens as further rows. They ask like all rows and are read by none: keys and values
are those of the tokens. So both streams are one product with every matrix, and a layer needs to know of them only that
its last queries have no keys.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm_jax.models import initializers
from lm_jax.models.attention.masks import Visibility
from lm_jax.models.config import EmbedConfig, InitConfig


class QueryStream(nn.Module):
    """Where the query stream starts: one vector for all targets (w in section 2.3)."""

    config: EmbedConfig
    init_config: InitConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length embed"], targets: Int[Array, "batch targets"], train: bool = False
    ) -> Float[Array, "batch rows embed"]:
        """The tokens' rows, then the targets'."""
        draw, width = initializers.table(self.init_config), self.config.width
        start = initializers.parameter(self, "start", draw, ("embed",), (width,))
        rows = jnp.broadcast_to(start.astype(self.dtype)[None, None], (*targets.shape, width))
        rows = nn.Dropout(self.config.dropout, deterministic=not train)(rows)
        return jnp.concatenate([x, rows], 1)


def append_targets(visibility: Visibility, targets: Int[Array, "batch targets"], length: int) -> Visibility:
    """What `length` tokens see, and after them their targets: the same, but for what they themselves are if unseen."""
    places = jnp.arange(length)[None] if visibility.query_positions is None else visibility.query_positions
    return visibility.replace(  # type: ignore[attr-defined]
        targets=targets,
        query_positions=_both(jnp.broadcast_to(places, (targets.shape[0], length)), targets),
        query_segments=_both(visibility.query_segments, targets),
        query_types=_both(visibility.query_types, targets),
        unseen=_both(visibility.unseen, targets),
    )


def _both(rows: Any, targets: Int[Array, "batch targets"]) -> Any:
    """What tokens have, then what the tokens have that targets ask for."""
    if rows is None:
        return None
    at = at_token(targets).reshape(*targets.shape, *(1,) * (rows.ndim - 2))
    return jnp.concatenate([rows, jnp.take_along_axis(rows, at, axis=1)], 1)


def at_token(targets: Int[Array, "batch targets"]) -> Int[Array, "batch targets"]:
    """The token at which each target stands, those of -1 - i at token i."""
    return jnp.maximum(targets, ~targets)


def silenced(
    mixed: Float[Array, "batch heads rows kv"], targets: Int[Array, "batch targets"]
) -> Float[Array, "batch heads rows kv"]:
    """Queries or attended values, with zeros where a row asks for no target."""
    asks = jnp.pad(targets >= 0, ((0, 0), (mixed.shape[2] - targets.shape[1], 0)), constant_values=True)
    return jnp.where(asks[:, None, :, None], mixed, jnp.zeros((), mixed.dtype))
