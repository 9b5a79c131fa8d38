"""Disentangled attention between content and relative positions (He et al. 2020, arXiv:2006.03654, eq. 4).

The score of query i and key j is a sum of three terms: content to content, content to position (query i with the
embedding of j's position relative to i), and position to content (that position's embedding with key j). All layers
share one table of relative positions; each layer projects it to its own keys and queries.
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
from lm_jax.models.attention.relative import relative_shift
from lm_jax.models.config import InitConfig, NormConfig
from lm_jax.models.norms import Norm


class RelativePositionTable(nn.Module):
    """Embeddings of relative positions, from the most negative up, shared by all layers of a stack."""

    config: DisentangledConfig
    norm: NormConfig
    init_config: InitConfig

    @nn.compact
    def __call__(self, width: int) -> Float[Array, "places embed"]:
        """The table for a model of `width`."""
        draw, shape = initializers.table(self.init_config), (2 * self.config.span, width)
        table = initializers.parameter(self, "table", draw, ("places", "embed"), shape)
        return Norm(self.norm, name="norm")(table) if self.config.norm else table


def scores(
    q: Float[Array, "batch heads query kv"],
    k: Float[Array, "batch heads key kv"],
    position_keys: Float[Array, "places heads kv"] | None,
    position_queries: Float[Array, "places heads kv"] | None,
    visibility: Visibility,
    config: DisentangledConfig,
) -> Float[Array, "batch heads query key"] | None:
    """Adds up the content-to-position term (`position_keys`) and the position-to-content term (`position_queries`).

    `q` and `position_queries` are already scaled. A term whose argument is None is left out.
    """
    queries, keys = q.shape[2], k.shape[2]
    if config.buckets and config.max_distance <= config.buckets // 2 + 1 < keys:
        raise InputError(
            f"attention.disentangled.max_distance is {config.max_distance}, but {config.buckets} buckets distinguish "
            f"{config.buckets // 2} positions on either side and the input has {keys} tokens; raise max_distance"
        )
    terms = []
    if visibility.positions_are_indices and queries == keys:
        # One product per distance, then a shift: the gradient of a gather is a slow scatter over all pairs.
        key_minus_query = jnp.arange(2 * keys) - (keys - 1)
        if position_keys is not None:
            terms.append(relative_shift(_products(q, position_keys[rows(-key_minus_query, config)]), keys, keys))
        if position_queries is not None:
            to_content = relative_shift(_products(k, position_queries[rows(key_minus_query, config)]), keys, keys)
            terms.append(to_content.swapaxes(2, 3))
    else:
        query, key = visibility.positions(slice(0, queries), slice(0, keys))
        indices = rows(query - key, config)[:, None]
        if position_keys is not None:
            terms.append(jnp.take_along_axis(_products(q, position_keys), indices, -1))
        if position_queries is not None:
            to_content = jnp.take_along_axis(_products(k, position_queries), indices.swapaxes(2, 3), -1)
            terms.append(to_content.swapaxes(2, 3))
    return sum(terms[1:], terms[0]) if terms else None


def rows(relative: Int[Array, "*shape"], config: DisentangledConfig) -> Int[Array, "*shape"]:
    """Table rows of relative positions (query minus key)."""
    buckets = positions.log_bucket(relative, config.buckets, config.max_distance) if config.buckets else relative
    return jnp.clip(buckets + config.span, 0, 2 * config.span - 1)


def _products(content: Array, table: Array) -> Array:
    """Products of content with every relative position, [batch heads length places]."""
    content, table = cpu.upcast(content, table)
    return jnp.einsum("bhld,phd->bhlp", content, table, preferred_element_type=jnp.float32)
