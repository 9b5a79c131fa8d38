"""Learned relative positions: a bias per bucket and head (T5), or a key per distance (Transformer-XL).

T5: Raffel et al. 2020 (arXiv:1910.10683), section 2.1. Transformer-XL: Dai et al. 2019 (arXiv:1901.02860), section 3.3.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm_jax.models import initializers
from lm_jax.models.attention import positions
from lm_jax.models.attention.config import AttentionConfig
from lm_jax.models.attention.masks import Visibility
from lm_jax.models.attention.two_stream import token_index
from lm_jax.models.config import InitConfig
from lm_jax.models.projection import Projection


class RelativeBias(nn.Module):
    """A bias per head and bucket of relative position, shared by all layers (T5) or in each layer (UMT5)."""

    config: AttentionConfig
    init_config: InitConfig

    @nn.compact
    def __call__(self, visibility: Visibility, length: int, width: int) -> Float[Array, "#batch heads query key"]:
        """The bias of every query and key for `length` tokens in a model of `width`."""
        heads, buckets = self.config.heads, self.config.buckets
        draw = initializers.kernel(self.init_config, width, heads)
        table = initializers.parameter(self, "table", draw, ("buckets", "heads"), (buckets.buckets, heads))
        query, key = visibility.query_positions, visibility.key_positions
        query = jnp.arange(length)[None] if query is None else query
        key = jnp.arange(length)[None] if key is None else key
        two_sided = self.config.mask == "full"
        indices = positions.bucket(key[:, None, :] - query[:, :, None], buckets, two_sided=two_sided)
        # A matrix product with one-hot rows: the gradient of a gather is a slow scatter.
        return jnp.einsum("bqkn,nh->bhqk", jax.nn.one_hot(indices, buckets.buckets), table)


class RelativeScores(nn.Module):
    """Transformer-XL's relative scores, with XLNet's segment encoding.

    (q + u) k + (q + v) W sinusoid(distance) + (q + w) s, with vectors u, v and w per head, and s one of two vectors:
    for keys of the query's token type, and for others (Yang et al. 2019, arXiv:1906.08237, section 2.5).
    """

    config: AttentionConfig
    init_config: InitConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, q: Float[Array, "batch heads query kv"], visibility: Visibility, keys: int, width: int, scale: float
    ) -> tuple[Float[Array, "batch heads query kv"], Float[Array, "batch heads query key"]]:
        """Returns q + u, the queries for the keys' content, and the sum of the other terms, scaled.

        Distances are differences of slots, so that packed texts and padding on the left do not change them.
        """
        config = self.config.transformer_xl
        size, length = (q.shape[1], q.shape[3]), visibility.tokens(q.shape[2])
        draw = initializers.kernel(self.init_config, width, size[0] * size[1])
        axes = ("embed", "heads", "kv")
        project = Projection((width,), size, axes, draw, False, self.dtype, name="distance")
        # Descending from the distance of the last query to the first key; `relative_shift` needs one extra distance.
        distances = visibility.query_offset + length - 1 - jnp.arange(length + keys)
        if config.clamp is not None:
            distances = jnp.clip(distances, -config.clamp, config.clamp)
        distances = jnp.stack([distances, -distances]) if config.both_ways else distances[None]
        distance_keys = project(positions.sinusoidal_halves(distances, width).astype(self.dtype))
        product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
        if config.both_ways:
            batch = q.shape[0]
            backwards = jnp.arange(batch) >= batch - batch // 2
            distance_keys = distance_keys[backwards.astype(jnp.int32)]
            scores = product("bhqd,bchd->bhqc", self._biased(q, "distance_bias"), distance_keys)
        else:
            scores = product("bhqd,chd->bhqc", self._biased(q, "distance_bias"), distance_keys[0])
        scores = relative_shift(scores, length, keys, visibility.targets)
        if config.types:
            type_q, types = self._biased(q, "type_bias"), self._vectors("types", ("types", "heads", "kv"), (2, *size))
            if visibility.query_types is not None and visibility.key_types is not None:
                other = product("bhqd,thd->bhqt", type_q, types.astype(self.dtype))
                same = visibility.query_types[:, None, :, None] == visibility.key_types[:, None, None, :]
                scores = scores + jnp.where(same, other[..., :1], other[..., 1:])
        return self._biased(q, "content_bias"), scores * scale

    def _biased(self, q: jax.Array, name: str) -> jax.Array:
        return q + self._vectors(name, ("heads", "kv"), (q.shape[1], q.shape[3])).astype(q.dtype)[None, :, None]

    def _vectors(self, name: str, axes: tuple[str, ...], shape: tuple[int, ...]) -> jax.Array:
        return initializers.parameter(self, name, initializers.table(self.init_config), axes, shape)


def relative_shift(
    scores: Float[Array, "batch heads query distance"],
    length: int,
    keys: int,
    targets: Int[Array, "batch targets"] | None = None,
) -> Float[Array, "batch heads query key"]:
    """Maps scores by distance to scores by key (the relative shift of Dai et al. 2019, appendix B).

    Args:
      scores: columns are distances in steps of -1; the keys of query i begin at column length - 1 - i.
      length: number of token queries.
      keys: number of keys.
      targets: token indices of the queries after the token queries.
    """
    batch, heads, _, distances = scores.shape
    shifted = scores[:, :, :length].reshape(batch, heads, length * distances)
    # Reshaping to rows one column shorter shifts each row by one, without a gather.
    shifted = shifted[..., length - 1 : length - 1 + length * (distances - 1)]
    shifted = shifted.reshape(batch, heads, length, distances - 1)[..., :keys]
    if targets is None:
        return shifted
    shift = lambda row, start: jax.lax.dynamic_slice_in_dim(row, start, keys, axis=-1)
    starts = length - 1 - token_index(targets)
    rows = jax.vmap(jax.vmap(shift, in_axes=(1, 0), out_axes=1))(scores[:, :, length:], starts)
    return jnp.concatenate([shifted, rows], 2)
