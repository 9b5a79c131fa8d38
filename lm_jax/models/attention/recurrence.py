"""States of earlier tokens as further keys: recurrence over segments (Dai et al. 2019, arXiv:1901.02860, 3.2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lm_jax.models.attention.masks import Visibility
from lm_jax.models.config import MemoryConfig


def prepend_past(visibility: Visibility, length: int, past: int) -> Visibility:
    """What `length` queries see that have the keys of `past` earlier tokens, none of them padding, before their own.

    Segments then only tell padding: which text earlier tokens were of is not known.
    """
    places = jnp.arange(length)[None] if visibility.query_positions is None else visibility.query_positions
    earlier = places[:, :1] + jnp.arange(-past, 0)[None]
    segments, before = visibility.key_segments, lambda x, value: jnp.pad(x, ((0, 0), (past, 0)), constant_values=value)
    return visibility.replace(  # type: ignore[attr-defined]
        first=past,
        query_positions=places,
        key_positions=jnp.concatenate([earlier, places], 1),
        query_segments=None,
        key_segments=None if segments is None else before(segments, 1),
        # Their types were not kept either: as in the released code, they are the first one.
        key_types=None if visibility.key_types is None else before(visibility.key_types, 0),
        unseen=None if visibility.unseen is None else jnp.pad(visibility.unseen, ((0, 0), (0, 0), (past, 0))),
    )


def next_past(
    config: MemoryConfig,
    earlier: Float[Array, "*layers batch past embed"],
    now: Float[Array, "*layers batch length embed"],
) -> Float[Array, "*layers batch kept embed"]:
    """The states that the next call finds, through which nothing is learned."""
    held = jnp.concatenate([earlier, now[..., : config.reuse, :]], -2)
    return jax.lax.stop_gradient(held[..., -(config.length or held.shape[-2]) :, :])
