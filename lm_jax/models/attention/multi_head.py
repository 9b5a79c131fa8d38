"""Multi-head attention (Vaswani et al. 2017) with grouped keys and values (Ainslie et al. 2023): projections, cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm_jax.core.config import InputError
from lm_jax.models import initializers, prompts
from lm_jax.models.attention import disentangled, kernels, masks, positions, two_stream
from lm_jax.models.attention.convolution import Convolution
from lm_jax.models.attention.masks import Visibility
from lm_jax.models.attention.relative import RelativeScores
from lm_jax.models.attention.rotary import rotary
from lm_jax.models.config import AttentionConfig, InitConfig, NormConfig
from lm_jax.models.norms import Norm
from lm_jax.models.projection import Projection
from lm_jax.models.remat import named
from lm_jax.parallel.layout import constrain


class Attention(nn.Module):
    """Self-attention of `x`, or cross-attention to `memory`; all models use this class.

    Attributes:
      config: heads, mask, position and kernel.
      dtype: dtype of matrix products.
      residual_gain: gain of the output projection's initialisation.
      norm: norm of queries and keys, where `config.qk_norm` is set.
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
        position_table: Float[Array, "places embed"] | None = None,
        cache: dict[str, jax.Array] | None = None,
        index: Int[Array, ""] | None = None,
        cross: bool = False,
        train: bool = False,
    ) -> tuple[Float[Array, "batch query embed"], dict[str, jax.Array] | None]:
        """Returns the attended values after the output projection, and the cache with this call's keys and values.

        Args:
          x: input of the queries.
          visibility: positions and segments of queries and keys; keys are all slots of the cache, if there is one. Its
            mask is replaced by that of `config`.
          memory: an encoder's output, for cross-attention; None: its keys and values are in the cache.
          past: inputs of earlier tokens, whose keys precede those of `x`.
          bias: added to the scores.
          position_table: embeddings of relative positions, where the position is `disentangled`.
          cache: `key` and `value`, shaped as by `stack.layers.empty_cache`; None: no cache.
          index: the first slot that this call writes.
          cross: attend to `memory`.
          train: whether to apply dropout.
        """
        config, embed = self.config, x.shape[-1]
        width, groups = config.head_width(embed), config.kv_heads or config.heads
        # T5 does not scale scores but initialises the query kernel with a smaller variance.
        query_gain = width**-0.5 if config.scale == 1.0 and self.init_config.name == "fan_in" else 1.0
        convolutions = None
        if config.convolution > 1 and not cross:
            convolutions = _CachedConvolutions(config.convolution, x.shape[1], visibility, cache, index)
        projections = {"query": self._projection(embed, "query", config.heads, width, query_gain)}
        q = self._heads(projections["query"], x, convolutions)
        sow_weights = self.is_mutable_collection("attention") and not self.is_initializing()
        # The sown weights of unused targets are those of zero queries; their attended values are set to zero below.
        q = two_stream.zero_unused(q, visibility.targets) if sow_weights and visibility.targets is not None else q
        scale = self._scale(width, 1 if position_table is None else config.disentangled.terms)
        mask = masks.full if cross else masks.of_config(config, 0 if past is None else past.shape[1])
        visibility = visibility.replace(mask=mask)  # type: ignore[attr-defined]
        at = jnp.arange(x.shape[1])[None] if visibility.query_positions is None else visibility.query_positions
        rotate = not cross and config.position == "rotary"
        q = rotary(q, at, config.rotary) if rotate else q
        if cross and memory is None:
            if cache is None:
                raise InputError("cross-attention has neither an encoder's output nor a cache; set inputs.source")
            k, v = cache["key"], cache["value"]
        else:
            source = memory if cross and memory is not None else x[:, : visibility.tokens(x.shape[1])]
            source = source if past is None else jnp.concatenate([past, source], 1)
            projection = lambda name: self._projection(source.shape[-1], name, groups, width, cross=cross)
            projections |= {name: projection(name) for name in ("key", "value")}
            k, v = (self._heads(projections[name], source, convolutions) for name in ("key", "value"))
            k = rotary(k, at, config.rotary) if rotate else k
            if cache is not None:
                slot = 0 if cross or index is None else index
                k, v = _write(cache["key"], k, slot), _write(cache["value"], v, slot)
        if cache is not None:
            cache = {"key": k, "value": v, **(convolutions.last if convolutions else {})}
            k, v = (slots.reshape(x.shape[0], *slots.shape[-3:]) for slots in (k, v))
        k, v, visibility, bias = (k, v, visibility, bias) if cross else self._prefixed(k, v, visibility, bias)
        drops = train and config.dropout > 0 and config.dropout_on == "probabilities"
        dropout_key = self.make_rng("dropout") if drops else None
        if cross:
            q, slopes = q * jnp.asarray(scale, q.dtype), None
        else:
            q, bias, slopes = self._scale_and_bias(q, visibility, k.shape[2], bias, scale, embed)
            if position_table is not None:
                bias = self._disentangled_terms(position_table, projections, q, k, scale, visibility)
        terms = {"bias": bias, "slopes": slopes, "key": dropout_key}
        mixed = self._mixed(q, k, v, visibility, terms, cached=cache is not None, sow=sow_weights)
        if config.dropout_on == "output":
            mixed = nn.Dropout(config.dropout, deterministic=not train)(mixed)
        mixed = mixed if visibility.targets is None else two_stream.zero_unused(mixed, visibility.targets)
        return self._out(constrain(mixed.transpose(0, 2, 1, 3), "batch", "length", "heads", "kv"), embed), cache

    def _mixed(
        self, q: Array, k: Array, v: Array, visibility: Visibility, terms: dict[str, Any], *, cached: bool, sow: bool
    ) -> Array:
        """The attended values [batch heads query kv] of a kernel with some further arguments."""
        config = self.config
        options = {**terms, "softcap": config.softcap, "dropout": config.dropout, "block": config.block}
        # With a cache, a run trained with a fused kernel decodes on any platform.
        name = "auto" if cached and config.kernel in kernels.FUSED else config.kernel
        kernel = kernels.choose(name, q, k, visibility, **options)
        mix = lambda values: kernel(q, k, values, visibility, **options)
        mixed = mix(v)
        if sow:
            self._sow_weights(mix, v)
        return mixed

    def _prefixed(
        self, k: Array, v: Array, visibility: Visibility, bias: Array | None
    ) -> tuple[Array, Array, Visibility, Array | None]:
        """The arguments, with the keys and values of a learned prefix before the others if there is one."""
        if not self.has_variable("params", prompts.PREFIX):
            return k, v, visibility, bias
        return prompts.attended(self.get_variable("params", prompts.PREFIX), k, v, visibility, bias)

    def _scale_and_bias(
        self, q: Array, visibility: Visibility, keys: int, bias: Array | None, scale: float, embed: int
    ) -> tuple[Array, Array | None, Array | None]:
        """Scaled queries, the bias on the scores (of Transformer-XL or ALiBi if configured), and ALiBi's slopes."""
        config, slopes = self.config, None
        if config.position == "transformer_xl":
            relative = RelativeScores(config, self.init_config, self.dtype, name="relative")
            q, bias = relative(q, visibility, keys, embed, scale)
        q = q * jnp.asarray(scale, q.dtype)
        if config.position == "alibi":
            slopes, bias = self._alibi(visibility, keys, scale)
        return q, bias, slopes

    def _sow_weights(self, mix: Callable[[jax.Array], jax.Array], values: jax.Array) -> None:
        """Sows the attention weights: the kernel's output for the identity matrix as values."""
        keys, width = values.shape[2:]
        # Several blocks of columns, because kernels expect values as wide as keys.
        columns = [jnp.eye(keys, width, -start, dtype=values.dtype) for start in range(0, keys, width)]
        weights = [mix(jnp.broadcast_to(block[None, None], values.shape)) for block in columns]
        self.sow("attention", "weights", jnp.concatenate(weights, -1)[..., :keys])

    def _disentangled_terms(
        self, table: Array, projections: dict[str, Projection], q: Array, k: Array, scale: float, visibility: Visibility
    ) -> Array | None:
        """The content-to-position and position-to-content terms of the scores."""
        settings = self.config.disentangled

        def projected(name: str, used: bool) -> Array | None:
            if not used:
                return None
            separate = lambda: self._projection(table.shape[-1], f"place_{name}", q.shape[1], q.shape[3])
            return (projections[name] if settings.share else separate())(table.astype(self.dtype))

        keys = projected("key", settings.content_to_position)
        queries = projected("query", settings.position_to_content)
        queries = None if queries is None else queries * jnp.asarray(scale, queries.dtype)
        return disentangled.scores(q, k, keys, queries, visibility, settings)

    def _scale(self, width: int, terms: int) -> float:
        """The factor on scores, each the sum of `terms` products."""
        if self.config.scale is not None:
            return self.config.scale
        return initializers.score_scale(self.init_config, width) * terms**-0.5

    def _projection(
        self, embed: int, name: str, heads: int, width: int, gain: float = 1.0, *, cross: bool = False
    ) -> Projection:
        gain *= self.init_config.attention_gain
        kernel_init = initializers.kernel(self.init_config, embed, heads * width, gain)
        # A single key head cannot be sharded: it is replicated on all devices.
        heads_axis = "heads" if name.endswith("query") else "groups" if heads > 1 else "single"
        axes = ("memory" if cross else "embed", heads_axis, "kv")
        return Projection((embed,), (heads, width), axes, kernel_init, self.config.bias, self.dtype, name=name)

    def _heads(self, project: Projection, x: jax.Array, convolutions: _CachedConvolutions | None = None) -> jax.Array:
        """Projects `x` to queries, keys or values [batch heads length kv]."""
        config, name, heads_axis = self.config, str(project.name), project.axes[1]
        y = named(project(x), name)
        y = y if config.clip is None else jnp.clip(y, -config.clip, config.clip)
        if convolutions is not None:
            y = convolutions.mix(name, Convolution(config.convolution, heads_axis, name=f"{name}_convolution"), y)
        if config.qk_norm and name != "value":
            y = Norm(self.norm, name=f"{name}_norm")(y)
        return constrain(y, "batch", "length", heads_axis, "kv").transpose(0, 2, 1, 3)

    def _out(self, mixed: Float[Array, "batch length heads kv"], embed: int) -> Array:
        heads, width = mixed.shape[2:]
        kernel_init, axes = (
            initializers.kernel(self.init_config, heads * width, embed, self.residual_gain),
            ("heads", "kv"),
        )
        settings = ((*axes, "embed"), kernel_init, self.config.out_bias, self.dtype)
        return named(Projection((heads, width), (embed,), *settings, name="out")(mixed), "attention_out")

    def _alibi(self, visibility: Visibility, keys: int, scale: float) -> tuple[Array | None, Array | None]:
        """ALiBi's slopes or, where they are rounded, the bias on the scores."""
        slopes, at = positions.slopes(self.config.heads, self.config.alibi.exponent), visibility.key_positions
        if not self.config.alibi.rounded:
            return jnp.asarray(slopes), None
        # Key positions replace distances: they differ by a constant per query, which softmax ignores.
        at = jnp.arange(keys)[None] if at is None else at
        rounded = jnp.asarray(slopes, jnp.bfloat16)[None, :, None, None] * at.astype(jnp.bfloat16)[:, None, None]
        return None, rounded.astype(jnp.float32) * scale


def _write(slots: jax.Array, new: Float[Array, "batch groups tokens kv"], at: Any) -> jax.Array:
    """Writes `new` into the cache slots from `at` on; the cache of a single row has no batch axis."""
    lead = slots.shape[:-2]
    new = new.astype(slots.dtype).reshape(*lead, *new.shape[2:])
    return jax.lax.dynamic_update_slice(slots, new, (*[0] * len(lead), at, 0))


class _CachedConvolutions:
    """Convolutions of a call: earlier tokens come from the cache; `last` holds this call's last tokens for the next."""

    def __init__(self, width: int, length: int, visibility: Visibility, cache: dict[str, jax.Array] | None, index: Any):
        self.same_text, self.cache = visibility.same_text(width - 1, length, index), cache or {}
        self.last: dict[str, jax.Array] = {}

    def mix(self, name: str, convolution: Convolution, y: jax.Array) -> jax.Array:
        """Applies the convolution to `y` [batch length heads kv]."""
        mixed, after = convolution(y.transpose(0, 2, 1, 3), self.cache.get(f"{name}_recent"), self.same_text)
        self.last[f"{name}_recent"] = after
        return mixed.transpose(0, 2, 1, 3)
