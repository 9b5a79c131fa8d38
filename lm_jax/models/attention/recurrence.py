"""Segment-level recurrence: states of earlier tokens as additional keys (Dai et al. 2019, arXiv:1901.02860, 3.2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lm_jax.models.attention.masks import Visibility
from lm_jax.models.config import MemoryConfig


def prepend_past(visibility: Visibility, length: int, past: int) -> Visibility:
    """Prepends the keys of `past` earlier tokens, of which none is padding, to those of `length` queries.

    Segments then only mark padding, because the segments of earlier tokens are not stored.
    """
    positions = jnp.arange(length)[None] if visibility.query_positions is None else visibility.query_positions
    # Without segments, positions that restart in a row are not consecutive.
    consecutive = visibility.consecutive and (visibility.positions_are_indices or visibility.query_segments is None)
    own = visibility.replace(  # type: ignore[attr-defined]
        query_positions=positions, key_positions=positions, query_segments=None, consecutive=consecutive
    )
    return own.prepended(past, positions[:, :1] + jnp.arange(-past, 0)[None])


def next_past(
    config: MemoryConfig,
    earlier: Float[Array, "*layers batch past embed"],
    current: Float[Array, "*layers batch length embed"],
) -> Float[Array, "*layers batch next embed"]:
    """The past of the next call: the latest states, through which no gradient flows."""
    states = jnp.concatenate([earlier, current[..., : config.reuse, :]], -2)
    return jax.lax.stop_gradient(states[..., -(config.length or states.shape[-2]) :, :])
