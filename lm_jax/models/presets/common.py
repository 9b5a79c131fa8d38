"""What presets share: the tree of a model of one stack or two, made of a row of its size table and its family's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import ml_collections

from lm_jax.core.config import to_config_dict
from lm_jax.models import config as models

# depth, width, heads and length; where they are not what follows from these, kv_heads, head_dim and mlp. `vocab`, which
# no configuration reads, is the released vocabulary where a size has another than its family.
Shape = Mapping[str, Any]
# Typed so, for a table may hold more than numbers.
Sizes = dict[str, dict[str, Any]]
NOTHING: Shape = {}
# GPT-2's, which many papers took over: matrices that write to the residual stream are drawn smaller in deep models.
SCALED = models.InitConfig(name="normal", stddev=0.02, scale_residual=True)
NORMAL = models.InitConfig(name="normal", stddev=0.02)


class Build(Protocol):
    """A preset: the configuration tree of a size."""

    def __call__(self, size: str = ..., /) -> ml_collections.ConfigDict:
        """The full tree."""
        ...


class Preset(NamedTuple):
    """A family of models.

    Attributes:
      build: the configuration tree of a size.
      sizes: its table.
      paper: an arXiv number, or what else it is found by.
      vocab: rows of the released token table; a configuration has none, for it follows the tokenizer.
    """

    build: Build
    sizes: Mapping[str, Shape]
    paper: str
    vocab: int

    def vocabulary(self, size: str) -> int:
        """Rows of the released token table of a size."""
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
    """An encoder or a decoder.

    Args:
      shape: a row of a size table.
      norm: of all its layers and of its end.
      attention: what attention has that its defaults and `shape` have not.
      feedforward: the same of the feed-forward layers.
      embed: the same of the embedding.
      stack: the same of the stack.
      placement: of the norms.
      dropout: of embeddings, attention and branches, where those say nothing else.
      **model: the same of the whole.
    """
    mask = "full" if model.get("kind") == "encoder" else "causal"
    own = _attention(shape, mask, dropout, attention)
    block = _block(shape, feedforward, attention=own, norm=norm, norm_placement=placement, dropout=dropout)
    return to_config_dict(
        models.TransformerConfig(
            embed=_embedding(shape, dropout, embed),
            stack=models.StackConfig(depth=shape["depth"], block=block, **stack),
            norm=norm,
            **model,
        )
    )


def two_stacks(
    shape: Shape,
    *,
    norm: models.NormConfig,
    attention: Shape = NOTHING,
    own: Shape = NOTHING,
    feedforward: Shape = NOTHING,
    embed: Shape = NOTHING,
    placement: str = "pre",
    dropout: float = 0.0,
    **model: Any,
) -> ml_collections.ConfigDict:
    """An encoder and a decoder of the same shape.

    The arguments are those of `one_stack`; `own` are settings of self-attention, which cross-attention does not share.
    """
    full, causal = (_attention(shape, mask, dropout, {**attention, **own}) for mask in ("full", "causal"))
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
            **model,
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
