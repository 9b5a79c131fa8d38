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
    earlier = positions[:, :1] + jnp.arange(-past, 0)[None]
    segments, pad = visibility.key_segments, lambda x, value: jnp.pad(x, ((0, 0), (past, 0)), constant_values=value)
    return visibility.replace(  # type: ignore[attr-defined]
        query_offset=past,
        query_positions=positions,
        key_positions=jnp.concatenate([earlier, positions], 1),
        query_segments=None,
        key_segments=None if segments is None else pad(segments, 1),
        # Types of earlier tokens are not stored either; 0, as in the released code.
        key_types=None if visibility.key_types is None else pad(visibility.key_types, 0),
        # The past comes before every token in the factorisation order (Yang et al. 2019, section 2.4).
        key_ranks=None if visibility.key_ranks is None else pad(visibility.key_ranks, jnp.iinfo(jnp.int32).min),
        unseen=None if visibility.unseen is None else jnp.pad(visibility.unseen, ((0, 0), (0, 0), (past, 0))),
    )


def next_past(
    config: MemoryConfig,
    earlier: Float[Array, "*layers batch past embed"],
    current: Float[Array, "*layers batch length embed"],
) -> Float[Array, "*layers batch next embed"]:
    """The past of the next call: the latest states, through which no gradient flows."""
    states = jnp.concatenate([earlier, current[..., : config.reuse, :]], -2)
    return jax.lax.stop_gradient(states[..., -(config.length or states.shape[-2]) :, :])
