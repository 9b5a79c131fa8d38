"""Two-stream self-attention (Yang et al. 2019, arXiv:1906.08237, section 2.3) in an ordinary stack.

The query stream is appended to the tokens (the content stream) as additional rows, which have queries but no keys or
values. Each matrix multiplies both streams at once, and a layer only needs to know that its last rows have no keys.
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
    """The initial state of the query stream: one learned vector for all targets (w in section 2.3)."""

    config: EmbedConfig
    init_config: InitConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length embed"], targets: Int[Array, "batch targets"], train: bool = False
    ) -> Float[Array, "batch rows embed"]:
        """Appends the targets' rows to the tokens' rows `x`."""
        draw, width = initializers.table(self.init_config), self.config.width
        start = initializers.parameter(self, "start", draw, ("embed",), (width,))
        rows = jnp.broadcast_to(start.astype(self.dtype)[None, None], (*targets.shape, width))
        rows = nn.Dropout(self.config.dropout, deterministic=not train)(rows)
        return jnp.concatenate([x, rows], 1)


def append_targets(visibility: Visibility, targets: Int[Array, "batch targets"], length: int) -> Visibility:
    """Appends a query per target: it attends as its token does, but to that token itself only if `unseen` permits.

    With ranks, it attends to tokens of a rank below its token's.
    """
    ranks = visibility.query_ranks
    positions = jnp.arange(length)[None] if visibility.query_positions is None else visibility.query_positions
    return visibility.replace(  # type: ignore[attr-defined]
        targets=targets,
        query_positions=_append_rows(jnp.broadcast_to(positions, (targets.shape[0], length)), targets),
        query_segments=_append_rows(visibility.query_segments, targets),
        query_types=_append_rows(visibility.query_types, targets),
        unseen=_append_rows(visibility.unseen, targets),
        query_ranks=None if ranks is None else _append_rows(ranks, targets).at[:, length:].add(-1),
    )


def _append_rows(rows: Any, targets: Int[Array, "batch targets"]) -> Any:
    """Appends the rows of the targets' tokens."""
    if rows is None:
        return None
    at = token_index(targets).reshape(*targets.shape, *(1,) * (rows.ndim - 2))
    return jnp.concatenate([rows, jnp.take_along_axis(rows, at, axis=1)], 1)


def token_index(targets: Int[Array, "batch targets"]) -> Int[Array, "batch targets"]:
    """The token index of each target; an unused target -1 - i is at token i."""
    return jnp.maximum(targets, ~targets)


def zero_unused(
    states: Float[Array, "batch heads rows kv"], targets: Int[Array, "batch targets"]
) -> Float[Array, "batch heads rows kv"]:
    """Sets the queries or attended values of unused targets to zero."""
    used = jnp.pad(targets >= 0, ((0, 0), (states.shape[2] - targets.shape[1], 0)), constant_values=True)
    return jnp.where(used[:, None, :, None], states, jnp.zeros((), states.dtype))
