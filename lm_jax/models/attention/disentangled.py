"""Disentangled attention (He et al. 2020, arXiv:2006.03654, eq. 4): content and relative positions ask each other.

The score of a query at i and a key at j is a sum of three products: of their contents, of the query with the position
of j as seen from i, and of the key with the same position. Embeddings of relative positions are one table in the stack;
each layer makes its own keys and queries of them.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm_jax.core.config import InputError
from lm_jax.models import cpu, initializers
from lm_jax.models.attention import positions
from lm_jax.models.attention.config import DisentangledConfig
from lm_jax.models.attention.masks import Visibility
from lm_jax.models.attention.relative import aligned
from lm_jax.models.config import InitConfig, NormConfig
from lm_jax.models.norms import Norm


class PlaceTable(nn.Module):
    """Embeddings of relative positions, the most negative first, for all layers of a stack."""

    config: DisentangledConfig
    norm: NormConfig
    init_config: InitConfig

    @nn.compact
    def __call__(self, width: int) -> Float[Array, "places embed"]:
        """The table of a model of `width`."""
        draw, shape = initializers.table(self.init_config), (2 * self.config.span, width)
        table = initializers.parameter(self, "table", draw, ("places", "embed"), shape)
        return Norm(self.norm, name="norm")(table) if self.config.norm else table


def scores(
    q: Float[Array, "batch heads query kv"],
    k: Float[Array, "batch heads key kv"],
    place_keys: Float[Array, "places heads kv"] | None,
    place_queries: Float[Array, "places heads kv"] | None,
    visibility: Visibility,
    config: DisentangledConfig,
) -> Float[Array, "batch heads query key"] | None:
    """What relative positions add to the scores of content.

    Args:
      q: scaled queries of the content.
      k: keys of the content.
      place_keys: keys of relative positions, which content asks for; None leaves this term out.
      place_queries: scaled queries of relative positions, which ask for content; None leaves this term out.
      visibility: where queries and keys stand.
      config: the buckets.
    """
    queries, keys = q.shape[2], k.shape[2]
    if config.buckets and config.max_distance <= config.buckets // 2 + 1 < keys:
        raise InputError(
            f"attention.disentangled.max_distance is {config.max_distance}, but {config.buckets} buckets tell apart "
            f"{config.buckets // 2} positions on either side and the input has {keys} tokens; raise max_distance"
        )
    terms = []
    if visibility.counted and queries == keys:
        # One product for each distance, then a shift: a gather's gradient would be a slow scatter over all pairs.
        ahead = jnp.arange(2 * keys) - (keys - 1)
        if place_keys is not None:
            terms.append(aligned(_products(q, place_keys[rows(-ahead, config)]), keys, keys))
        if place_queries is not None:
            asked = aligned(_products(k, place_queries[rows(ahead, config)]), keys, keys)
            terms.append(asked.swapaxes(2, 3))
    else:
        query, key = visibility.positions(slice(0, queries), slice(0, keys))
        marks = rows(query - key, config)[:, None]
        if place_keys is not None:
            terms.append(jnp.take_along_axis(_products(q, place_keys), marks, -1))
        if place_queries is not None:
            found = jnp.take_along_axis(_products(k, place_queries), marks.swapaxes(2, 3), -1)
            terms.append(found.swapaxes(2, 3))
    return sum(terms[1:], terms[0]) if terms else None


def rows(relative: Int[Array, "*shape"], config: DisentangledConfig) -> Int[Array, "*shape"]:
    """The rows of the table for relative positions, query minus key."""
    marks = positions.log_bucket(relative, config.buckets, config.max_distance) if config.buckets else relative
    return jnp.clip(marks + config.span, 0, 2 * config.span - 1)


def _products(content: Array, places: Array) -> Array:
    """Content with every place, [batch heads length places]."""
    content, places = cpu.widened(content, places)
    return jnp.einsum("bhld,phd->bhlp", content, places, preferred_element_type=jnp.float32)
