"""Builders that presets share: a configuration tree from a row of a size table and the settings of the family."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_collections

from lm_jax.core.config import to_config_dict
from lm_jax.models import config as models

# A row of a size table: depth, width, heads and length; kv_heads, head_dim and mlp where they differ from their
# defaults. `vocab` is the released vocabulary of a size that differs from its family; no configuration reads it.
Shape = Mapping[str, Any]
# The type of size tables with values other than integers.
Sizes = dict[str, dict[str, Any]]
NOTHING: Shape = {}
# GPT-2's initialisation, common in later papers: matrices that write to the residual stream shrink with depth.
SCALED = models.InitConfig(name="normal", stddev=0.02, scale_residual=True)
NORMAL = models.InitConfig(name="normal", stddev=0.02)
# The heads of tasks, as in transformers' classes: decoders read the last token; encoder-decoders the last token of the
# decoder, which reads the text too.
LAST = models.TaskHeadConfig(pool="last", bias=False)
LAST_DENSE = models.TaskHeadConfig(pool="last", dense=True, activation="tanh")


class Preset(NamedTuple):
    """A family of models.

    Attributes:
      build: returns the configuration tree of a size.
      sizes: the rows of the family's size table.
      paper: arXiv numbers, or authors and year.
      vocab: rows of the released token table; configurations leave it unset, because it follows the tokenizer.

    Example:
      >>> from lm_jax.core import config, trees
      >>> from lm_jax.models import config as models, model, presets
      >>> preset = presets.PRESETS["llama"]
      >>> tree = preset.build("7b")
      >>> llama = model.build_model(config.from_config_dict(models.TransformerConfig, tree), preset.vocabulary("7b"))
      >>> f"{trees.count(llama.shapes):,}"  # No array is allocated.
      '6,738,415,616'
    """

    build: Callable[..., ml_collections.ConfigDict]
    sizes: Mapping[str, Shape]
    paper: str
    vocab: int

    def vocabulary(self, size: str) -> int:
        """Return the rows of the released token table of a size."""
        return self.sizes[size].get("vocab", self.vocab)


def one_stack(
    shape: Shape,
    *,
    norm: models.NormConfig,
    attention: Shape = NOTHING,
    feedforward: Shape = NOTHING,
    embed: Shape = NOTHING,
    stack: Shape = NOTHING,
    placement: str = "pre",
    dropout: float = 0.0,
    **model: Any,
) -> ml_collections.ConfigDict:
    """Return an encoder or a decoder.

    Args:
      shape: a row of a size table.
      norm: norm of all layers and of the last hidden states.
      attention: fields of `AttentionConfig` that differ from the defaults and from `shape`.
      feedforward: likewise, fields of `FeedForwardConfig`.
      embed: likewise, fields of `EmbedConfig`.
      stack: likewise, fields of `StackConfig`.
      placement: `BlockConfig.norm_placement`.
      dropout: rate of embeddings, attention and residual branches that do not set their own.
      **model: fields of `TransformerConfig`.
    """
    encodes = model.get("kind") == "encoder"
    mask, task = ("full", models.TaskHeadConfig()) if encodes else ("causal", LAST)
    self_attention = _attention(shape, mask, dropout, attention)
    block = _block(shape, feedforward, attention=self_attention, norm=norm, norm_placement=placement, dropout=dropout)
    return to_config_dict(
        models.TransformerConfig(
            embed=_embedding(shape, dropout, embed),
            stack=models.StackConfig(depth=shape["depth"], block=block, **stack),
            norm=norm,
            **{"task": task, **model},
        )
    )


def two_stacks(
    shape: Shape,
    *,
    norm: models.NormConfig,
    attention: Shape = NOTHING,
    self_attention: Shape = NOTHING,
    feedforward: Shape = NOTHING,
    embed: Shape = NOTHING,
    placement: str = "pre",
    dropout: float = 0.0,
    **model: Any,
) -> ml_collections.ConfigDict:
    """Return an encoder and a decoder of the same shape.

    The arguments are those of `one_stack`; `attention` also applies to cross-attention, `self_attention` does not.
    """
    full, causal = (_attention(shape, mask, dropout, {**attention, **self_attention}) for mask in ("full", "causal"))
    encoder = _block(shape, feedforward, attention=full, norm=norm, norm_placement=placement, dropout=dropout)
    cross = _attention(shape, "full", dropout, attention)
    decoder = dataclasses.replace(encoder, attention=causal, cross=cross)
    return to_config_dict(
        models.EncoderDecoderConfig(
            embed=_embedding(shape, dropout, embed),
            encoder=models.StackConfig(depth=shape["depth"], block=encoder),
            decoder=models.StackConfig(depth=shape["depth"], block=decoder),
            norm=norm,
            final_norm=placement == "pre",
            **{"task": LAST_DENSE, **model},
        )
    )


def _attention(shape: Shape, mask: str, dropout: float, options: Shape) -> models.AttentionConfig:
    sizes = {name: shape[name] for name in ("heads", "kv_heads", "head_dim") if name in shape}
    return models.AttentionConfig(**{"mask": mask, "dropout": dropout, **sizes, **options})


def _block(shape: Shape, feedforward: Shape, **others: Any) -> models.BlockConfig:
    return models.BlockConfig(feedforward=models.FeedForwardConfig(width=shape.get("mlp"), **feedforward), **others)


def _embedding(shape: Shape, dropout: float, options: Shape) -> models.EmbedConfig:
    length = {"max_length": shape["length"]} if "length" in shape else {}
    return models.EmbedConfig(**{"dropout": dropout, "width": shape["width"], **length, **options})
