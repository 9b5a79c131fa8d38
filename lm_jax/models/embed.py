"""Embeddings of tokens, positions and token types: from token ids to the residual stream."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm_jax.core.config import InputError
from lm_jax.models import cpu, initializers, quantised
from lm_jax.models.attention.positions import SINUSOIDS
from lm_jax.models.config import EmbedConfig, InitConfig, NormConfig
from lm_jax.models.norms import Norm
from lm_jax.models.projection import Projection
from lm_jax.parallel.layout import constrain
from lm_jax.parallel.tables import look_up

# Parameter name of the token table's transpose, which decoding adds to the parameters.
TRANSPOSED = "turned"
# The logical axes of the token table.
TABLE = ("vocab", "embed")


class TokenTable(nn.Module):
    """The token embedding table; a tied readout multiplies by its transpose."""

    config: EmbedConfig
    init_config: InitConfig
    dtype: jnp.dtype

    def setup(self):  # noqa: D102
        if not self.config.vocab:
            raise InputError("config.model.embed.vocab is not set; it follows the tokenizer unless you set it")
        if self.has_variable("params", quantised.NAME):
            self.stored = self.get_variable("params", quantised.NAME)
            return
        draw, shape = initializers.table(self.init_config), (self.config.vocab, self.width)
        self.stored, self.embedding = None, initializers.parameter(self, "embedding", draw, TABLE, shape)

    @property
    def width(self) -> int:
        """Width of the table."""
        return self.config.factor or self.config.width

    def __call__(self, tokens: Int[Array, "batch length"]) -> Float[Array, "batch length factor"]:
        """Looks up the embeddings of `tokens`."""
        scale = self.width**0.5 if self.config.scale else 1.0
        return self.rows(tokens, "stream") * jnp.asarray(scale, self.dtype)

    def rows(self, ids: Int[Array, "*batch"], length: str | None = None) -> Float[Array, "*batch factor"]:
        """The rows of `ids`, divided along their second axis as the logical axis `length` is."""
        if self.stored is not None:
            return quantised.rows(self.stored, ids).astype(self.dtype)
        return look_up(self.embedding, ids, TABLE, self.dtype, length)

    def attend(self, hidden: Float[Array, "... factor"]) -> Float[Array, "... vocab"]:
        """Logits: the product of `hidden` with every row of the table."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        if self.stored is not None:
            logits = quantised.apply(lambda x, table: x @ table.T, flat, self.stored)
            return logits.reshape(*hidden.shape[:-1], -1)
        # On a CPU, XLA has faster matrix-vector code for the product with the transpose. `decode.weights` stores the
        # transpose with the parameters, which is faster still.
        transpose = self.get_variable("params", TRANSPOSED, self.embedding.T)
        logits = flat @ transpose.astype(self.dtype)
        return logits.reshape(*hidden.shape[:-1], self.embedding.shape[0])


class Embed(nn.Module):
    """Adds positions and token types to embedded tokens; projects factorised embeddings to the model's width."""

    config: EmbedConfig
    norm: NormConfig
    init_config: InitConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length factor"],
        positions: Int[Array, "#batch length"] | None,
        types: Int[Array, "batch length"] | None,
        train: bool = False,
        segments: Int[Array, "batch length"] | None = None,
    ) -> Float[Array, "batch length embed"]:
        """Returns the residual stream before the first layer; `positions` None: 0, 1, 2, ...; `segments` 0: padding."""
        config = self.config
        x = self._project(x) if config.factor_first else x
        length, width, draw = x.shape[1], x.shape[2], initializers.table(self.init_config)
        if config.positions == "learned":
            first, shape = config.offset, (config.max_length + config.offset, width)
            position_init = initializers.table(self.init_config, self.init_config.position_stddev)
            table = initializers.parameter(self, "position", position_init, ("position", "embed"), shape)
            if positions is None and length > config.max_length:
                raise InputError(
                    f"an input of {length} tokens, but config.model.embed.max_length is {config.max_length}; "
                    "shorten the input or train with a larger max_length"
                )
            if positions is None:
                rows = table[None, first : first + length].astype(self.dtype)
            else:
                rows = look_up(table, positions + first, ("position", "embed"), self.dtype, "stream")
            x = x + cpu.broadcast_rows(rows, x.shape[0])
        elif config.positions in SINUSOIDS:
            positions = jnp.arange(length)[None] if positions is None else positions
            x = x + SINUSOIDS[config.positions](positions, width).astype(self.dtype)
        elif config.positions != "none":
            names = ", ".join(SINUSOIDS)
            raise InputError(f"embed.positions is {config.positions!r}; expected none, learned or {names}")
        if config.types:
            table = initializers.parameter(self, "types", draw, ("types", "embed"), (config.types, width))
            # With one type, as in RoBERTa, both texts of a pair have it.
            types = jnp.zeros((1, length), jnp.int32) if types is None or config.types == 1 else types
            # A product with one-hot rows: its gradient is a matrix product; that of a gather is a slow scatter.
            rows = jax.nn.one_hot(types, config.types, dtype=self.dtype) @ table.astype(self.dtype)
            x = x + cpu.broadcast_rows(rows, x.shape[0])
        x = self._project(x) if config.norm_last and not config.factor_first else x
        if config.norm:
            x = Norm(self.norm, name="norm")(x)
        if config.blank_padding and segments is not None:
            x = jnp.where(segments[..., None] > 0, x, 0)
        x = nn.Dropout(config.dropout, deterministic=not train)(x)
        x = x if config.norm_last or config.factor_first else self._project(x)
        return constrain(x, "batch", "stream", None)

    def _project(self, x: jax.Array) -> jax.Array:
        config, factor = self.config, x.shape[2]
        if config.factor is None:
            return x
        axes, draw = ("factor", "embed"), initializers.kernel(self.init_config, factor, config.width)
        return Projection((factor,), (config.width,), axes, draw, config.factor_bias, self.dtype, name="project")(x)
