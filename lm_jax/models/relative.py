"""Relative position biases that are learned: one number a bucket and head (Raffel et al. 2020, arXiv:1910.10683)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lm_jax.models import initializers, positions
from lm_jax.models.attention_config import AttentionConfig
from lm_jax.models.config import InitConfig
from lm_jax.models.masks import Visibility


class RelativeBias(nn.Module):
    """A bias per head and bucket of relative position: in the stack for all layers (T5), or in each layer (UMT5)."""

    config: AttentionConfig
    init_config: InitConfig

    @nn.compact
    def __call__(self, visibility: Visibility, length: int, width: int) -> Float[Array, "#batch heads query key"]:
        """The bias of every query and key of `length` tokens, in a model of `width`."""
        heads, buckets = self.config.heads, self.config.buckets
        draw = initializers.kernel(self.init_config, width, heads)
        table = initializers.parameter(self, "table", draw, (None, "heads"), (buckets.buckets, heads))
        query, key = visibility.query_positions, visibility.key_positions
        query = jnp.arange(length)[None] if query is None else query
        key = jnp.arange(length)[None] if key is None else key
        two_sided = self.config.mask == "full"
        marks = positions.bucket(key[:, None, :] - query[:, :, None], buckets, two_sided=two_sided)
        # A matrix product with one-hot rows: a gather's gradient would be a slow scatter.
        return jnp.einsum("bqkn,nh->bhqk", jax.nn.one_hot(marks, buckets.buckets), table)
