"""Multi-head attention (Vaswani et al. 2017) with shared key-value heads (Ainslie et al. 2023): projections and cache.

The mask, the positions and the kernel are chosen by the configuration; no model has an attention class of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm_jax.core.config import InputError
from lm_jax.models import initializers
from lm_jax.models.attention import disentangled, kernels, masks, positions, two_stream
from lm_jax.models.attention.convolution import Convolution
from lm_jax.models.attention.masks import Visibility
from lm_jax.models.attention.relative import RelativeScores
from lm_jax.models.attention.rotary import rotary
from lm_jax.models.config import AttentionConfig, InitConfig, NormConfig
from lm_jax.models.norms import Norm
from lm_jax.models.projection import Projection
from lm_jax.parallel.layout import constrain


class Attention(nn.Module):
    """Attention from `x` to itself, or to `memory`.

    Attributes:
      config: heads, mask, position and kernel.
      init_config: how kernels are drawn.
      dtype: what products are computed in.
      residual_gain: gain of the output projection's draws.
      norm: of queries and keys, where `config.qk_norm` is set.
    """

    config: AttentionConfig
    init_config: InitConfig
    dtype: jnp.dtype
    residual_gain: float
    norm: NormConfig = NormConfig()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch query embed"],
        visibility: Visibility,
        *,
        memory: Float[Array, "batch key embed"] | None = None,
        past: Float[Array, "batch past embed"] | None = None,
        bias: Float[Array, "#batch heads query key"] | None = None,
        places: Float[Array, "places embed"] | None = None,
        cache: dict[str, jax.Array] | None = None,
        index: Int[Array, ""] | None = None,
        cross: bool = False,
        train: bool = False,
    ) -> tuple[Float[Array, "batch query embed"], dict[str, jax.Array] | None]:
        """The attended values, and the cache with this call's keys and values.

        Args:
          x: what asks.
          visibility: where queries and keys stand; with a cache, all its slots. The mask is the configuration's.
          memory: what an encoder computed, for cross-attention; None reads its keys and values from the cache.
          past: earlier tokens, which are keys before those of `x`.
          bias: added to the scores.
          places: relative positions as embeddings, where the position is `disentangled`.
          cache: `key` and `value` as `stack.empty_cache` shapes them; None keeps nothing.
          index: the first slot that this call writes.
          cross: attention over `memory`.
          train: whether dropout acts.
        """
        config, embed = self.config, x.shape[-1]
        width, groups = config.head_width(embed), config.kv_heads or config.heads
        # T5's scores are not scaled: its query kernel is drawn smaller instead.
        query_gain = width**-0.5 if config.scale == 1.0 and self.init_config.name == "fan_in" else 1.0
        recent = None
        if config.convolution > 1 and not cross:
            recent = _Recent(config.convolution, x.shape[1], visibility, cache, index)
        project = {"query": self._projection(embed, "query", config.heads, width, query_gain)}
        q = self._heads(project["query"], x, recent)
        showing = self.is_mutable_collection("attention") and not self.is_initializing()
        # What rows without a target would attend to is shown for queries of zeros; their values are silenced below.
        q = two_stream.silenced(q, visibility.targets) if showing and visibility.targets is not None else q
        scale = self._scale(width, 1 if places is None else config.disentangled.terms)
        mask = masks.full if cross else masks.of(config, 0 if past is None else past.shape[1])
        visibility = visibility.replace(mask=mask)  # type: ignore[attr-defined]
        asked = jnp.arange(x.shape[1])[None] if visibility.query_positions is None else visibility.query_positions
        turned = not cross and config.position == "rotary"
        q = rotary(q, asked, config.rotary) if turned else q
        if cross and memory is None:
            if cache is None:
                raise InputError("attention over an encoder's output got neither the output nor a cache of it")
            k, v = cache["key"], cache["value"]
        else:
            seen = memory if cross and memory is not None else x[:, : visibility.tokens(x.shape[1])]
            seen = seen if past is None else jnp.concatenate([past, seen], 1)
            made = lambda name: self._projection(seen.shape[-1], name, groups, width, cross=cross)
            project |= {name: made(name) for name in ("key", "value")}
            k, v = (self._heads(project[name], seen, recent) for name in ("key", "value"))
            k = rotary(k, asked, config.rotary) if turned else k
            if cache is not None:
                at = 0 if cross or index is None else index
                k, v = _written(cache["key"], k, at), _written(cache["value"], v, at)
        if cache is not None:
            cache = {"key": k, "value": v, **(recent.kept if recent else {})}
            k, v = (held.reshape(x.shape[0], *held.shape[-3:]) for held in (k, v))
        drop = self.make_rng("dropout") if train and config.dropout > 0 else None
        kernel = kernels.choose(config.kernel, visibility, q.shape[2], k.shape[2], config.block)
        if cross:
            q, slopes = q * jnp.asarray(scale, q.dtype), None
        else:
            q, bias, slopes = self._positioned(q, k, visibility, bias, places, project, scale, embed)
        choices: dict[str, Any] = {"softcap": config.softcap, "dropout": config.dropout, "block": config.block}
        mix = lambda values: kernel(q, k, values, visibility, bias=bias, slopes=slopes, key=drop, **choices)
        mixed = mix(v)
        if showing:
            self._show(mix, v)
        mixed = mixed if visibility.targets is None else two_stream.silenced(mixed, visibility.targets)
        return self._out(constrain(mixed.transpose(0, 2, 1, 3), "batch", "length", "heads", "kv"), embed), cache

    def _positioned(
        self,
        q: Array,
        k: Array,
        visibility: Visibility,
        bias: Array | None,
        places: Array | None,
        project: dict[str, Projection],
        scale: float,
        embed: int,
    ) -> tuple[Array, Array | None, Array | None]:
        """Scaled queries, what positions add to the scores, and ALiBi's slopes."""
        config, slopes = self.config, None
        if config.position == "transformer_xl":
            relative = RelativeScores(config, self.init_config, self.dtype, name="relative")
            q, bias = relative(q, visibility, k.shape[2], embed, scale)
        q = q * jnp.asarray(scale, q.dtype)
        if config.position == "alibi":
            slopes, bias = self._alibi(visibility, k.shape[2], scale)
        if places is not None:
            bias = self._places(places, project, q, k, scale, visibility)
        return q, bias, slopes

    def _show(self, mix: Callable[[jax.Array], jax.Array], values: jax.Array) -> None:
        """Sows what the kernel makes of the identity, asked for by `apply(..., mutable="attention")`."""
        keys, width = values.shape[2:]
        # A few columns at a time, because kernels take values as wide as keys.
        columns = [jnp.eye(keys, width, -start, dtype=values.dtype) for start in range(0, keys, width)]
        weights = [mix(jnp.broadcast_to(part[None, None], values.shape)) for part in columns]
        self.sow("attention", "weights", jnp.concatenate(weights, -1)[..., :keys])

    def _places(
        self, places: Array, project: dict[str, Projection], q: Array, k: Array, scale: float, visibility: Visibility
    ) -> Array | None:
        """The scores of content with relative positions and of relative positions with content."""
        settings = self.config.disentangled

        def projected(name: str, wanted: bool) -> Array | None:
            if not wanted:
                return None
            own = f"place_{name}"
            into = project[name] if settings.share else self._projection(places.shape[-1], own, q.shape[1], q.shape[3])
            return into(places.astype(self.dtype))

        keys = projected("key", settings.content_to_position)
        queries = projected("query", settings.position_to_content)
        queries = None if queries is None else queries * jnp.asarray(scale, queries.dtype)
        return disentangled.scores(q, k, keys, queries, visibility, settings)

    def _scale(self, width: int, terms: int) -> float:
        """What scores are multiplied by, that are sums of `terms` products."""
        if self.config.scale is not None:
            return self.config.scale
        return initializers.score_scale(self.init_config, width) * terms**-0.5

    def _projection(
        self, embed: int, name: str, heads: int, width: int, gain: float = 1.0, *, cross: bool = False
    ) -> Projection:
        draw = initializers.kernel(self.init_config, embed, heads * width, gain)
        # One head of keys is on every device: there is nothing to divide.
        split = "heads" if name.endswith("query") else "groups" if heads > 1 else "single"
        axes = ("memory" if cross else "embed", split, "kv")
        return Projection((embed,), (heads, width), axes, draw, self.config.bias, self.dtype, name=name)

    def _heads(self, project: Projection, x: jax.Array, recent: _Recent | None = None) -> jax.Array:
        """One of query, key and value, as [batch heads length kv]."""
        config, name, split = self.config, str(project.name), project.axes[1]
        y = project(x)
        y = y if config.clip is None else jnp.clip(y, -config.clip, config.clip)
        if recent is not None:
            y = recent.mix(name, Convolution(config.convolution, split, name=f"{name}_convolution"), y)
        if config.qk_norm and name != "value":
            y = Norm(self.norm, name=f"{name}_norm")(y)
        return constrain(y, "batch", "length", split, "kv").transpose(0, 2, 1, 3)

    def _out(self, mixed: Float[Array, "batch length heads kv"], embed: int) -> Array:
        heads, width = mixed.shape[2:]
        draw, axes = initializers.kernel(self.init_config, heads * width, embed, self.residual_gain), ("heads", "kv")
        biased = self.config.out_bias
        return Projection((heads, width), (embed,), (*axes, "embed"), draw, biased, self.dtype, name="out")(mixed)

    def _alibi(self, visibility: Visibility, keys: int, scale: float) -> tuple[Array | None, Array | None]:
        """How much scores fall per position, or, where that is rounded, what is added to them."""
        slopes, places = positions.slopes(self.config.heads, self.config.alibi.exponent), visibility.key_positions
        if not self.config.alibi.rounded:
            return jnp.asarray(slopes), None
        # By the places of keys alone, which is the same to softmax.
        places = jnp.arange(keys)[None] if places is None else places
        rounded = jnp.asarray(slopes, jnp.bfloat16)[None, :, None, None] * places.astype(jnp.bfloat16)[:, None, None]
        return None, rounded.astype(jnp.float32) * scale


def _written(held: jax.Array, new: Float[Array, "batch groups tokens kv"], at: Any) -> jax.Array:
    """What a cache holds with `new` in its slots from `at`; a single row has no axis there."""
    lead = held.shape[:-2]
    new = new.astype(held.dtype).reshape(*lead, *new.shape[2:])
    return jax.lax.dynamic_update_slice(held, new, (*[0] * len(lead), at, 0))


class _Recent:
    """The tokens before a call, as its convolutions see them, and those that the next call will want."""

    def __init__(self, width: int, length: int, visibility: Visibility, cache: dict[str, jax.Array] | None, index: Any):
        self.near, self.cache = visibility.near(width - 1, length, index), cache or {}
        self.kept: dict[str, jax.Array] = {}

    def mix(self, name: str, convolution: Convolution, y: jax.Array) -> jax.Array:
        """`y` [batch length heads kv] after its convolution."""
        mixed, after = convolution(y.transpose(0, 2, 1, 3), self.cache.get(f"{name}_recent"), self.near)
        self.kept[f"{name}_recent"] = after
        return mixed.transpose(0, 2, 1, 3)
