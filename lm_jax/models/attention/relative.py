"""Learned scores of distance: one number a bucket and head (T5), or one key a distance (Transformer-XL).

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
from lm_jax.models.attention.two_stream import at_token
from lm_jax.models.config import InitConfig
from lm_jax.models.projection import Projection


class RelativeBias(nn.Module):
    """A bias per head and bucket of relative position: in the stack for all layers (T5), or in each layer (UMT5)."""

    config: AttentionConfig
    init_config: InitConfig

    @nn.compact
    def __call__(self, visibility: Visibility, length: int, width: int) -> Float[Array, "#batch heads query key"]:
        """The bias of every query and key of `length` tokens, in a model of `width`."""
        heads, buckets = self.config.heads, self.config.buckets
        draw = initializers.kernel(self.init_config, width, heads)
        table = initializers.parameter(self, "table", draw, ("buckets", "heads"), (buckets.buckets, heads))
        query, key = visibility.query_positions, visibility.key_positions
        query = jnp.arange(length)[None] if query is None else query
        key = jnp.arange(length)[None] if key is None else key
        two_sided = self.config.mask == "full"
        marks = positions.bucket(key[:, None, :] - query[:, :, None], buckets, two_sided=two_sided)
        # A matrix product with one-hot rows: a gather's gradient would be a slow scatter.
        return jnp.einsum("bqkn,nh->bhqk", jax.nn.one_hot(marks, buckets.buckets), table)


class RelativeScores(nn.Module):
    """Distances, and whether two tokens are of one type, as further keys of every query.

    (q + u) k + (q + v) W sinusoid(distance) + (q + w) s, with u, v and w a vector a head each, and s one of two:
    for keys of the query's type, and for others (Yang et al. 2019, arXiv:1906.08237, section 2.5).
    """

    config: AttentionConfig
    init_config: InitConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, q: Float[Array, "batch heads query kv"], visibility: Visibility, keys: int, width: int, scale: float
    ) -> tuple[Float[Array, "batch heads query kv"], Float[Array, "batch heads query key"]]:
        """The queries that meet the keys' content (q + u), and the scores of everything else, scaled.

        Distances are counted in slots, so that packed texts and padding on the left do not change them.

        Args:
          q: queries, of `visibility.targets` too.
          visibility: where they stand.
          keys: how many there are.
          width: of the model.
          scale: what scores are multiplied by.
        """
        config = self.config.transformer_xl
        size, length = (q.shape[1], q.shape[3]), visibility.tokens(q.shape[2])
        draw = initializers.kernel(self.init_config, width, size[0] * size[1])
        axes = ("embed", "heads", "kv")
        project = Projection((width,), size, axes, draw, False, self.dtype, name="distance")
        # Of the last query to the first key first; one more than there are, which `aligned` wants.
        distances = visibility.first + length - 1 - jnp.arange(length + keys)
        if config.clamp is not None:
            distances = jnp.clip(distances, -config.clamp, config.clamp)
        distances = jnp.stack([distances, -distances]) if config.both_ways else distances[None]
        found = project(positions.sinusoidal_halves(distances, width).astype(self.dtype))
        product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
        if config.both_ways:
            batch = q.shape[0]
            backwards = jnp.arange(batch) >= batch - batch // 2
            scores = product("bhqd,bchd->bhqc", self._with(q, "distance_bias"), found[backwards.astype(jnp.int32)])
        else:
            scores = product("bhqd,chd->bhqc", self._with(q, "distance_bias"), found[0])
        scores = aligned(scores, length, keys, visibility.targets)
        if config.types:
            type_q, types = self._with(q, "type_bias"), self._vectors("types", ("types", "heads", "kv"), (2, *size))
            if visibility.query_types is not None and visibility.key_types is not None:
                other = product("bhqd,thd->bhqt", type_q, types.astype(self.dtype))
                same = visibility.query_types[:, None, :, None] == visibility.key_types[:, None, None, :]
                scores = scores + jnp.where(same, other[..., :1], other[..., 1:])
        return self._with(q, "content_bias"), scores * scale

    def _with(self, q: jax.Array, name: str) -> jax.Array:
        """Queries with a vector of each head added."""
        return q + self._vectors(name, ("heads", "kv"), (q.shape[1], q.shape[3])).astype(q.dtype)[None, :, None]

    def _vectors(self, name: str, axes: tuple[str, ...], shape: tuple[int, ...]) -> jax.Array:
        return initializers.parameter(self, name, initializers.table(self.init_config), axes, shape)


def aligned(
    scores: Float[Array, "batch heads query distance"],
    length: int,
    keys: int,
    targets: Int[Array, "batch targets"] | None = None,
) -> Float[Array, "batch heads query key"]:
    """Scores by distance as scores by key: each query's row begins where its distance to the first key stands.

    Args:
      scores: of distances that fall by one; the last of `length` queries finds its own in the first columns, and each
        query before it one further on.
      length: queries, one a token.
      keys: columns that remain.
      targets: those of the other queries, after those.
    """
    batch, heads, _, distances = scores.shape
    own = scores[:, :, :length].reshape(batch, heads, length * distances)
    # One column less a row moves every row by one (Dai et al. 2019, appendix B), without a gather.
    own = own[..., length - 1 : length - 1 + length * (distances - 1)]
    own = own.reshape(batch, heads, length, distances - 1)[..., :keys]
    if targets is None:
        return own
    cut = lambda row, start: jax.lax.dynamic_slice_in_dim(row, start, keys, axis=-1)
    rows = jax.vmap(jax.vmap(cut, in_axes=(1, 0), out_axes=1))(scores[:, :, length:], length - 1 - at_token(targets))
    return jnp.concatenate([own, rows], 2)
