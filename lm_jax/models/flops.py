"""Floating-point operations of training, after Chowdhery et al. 2022 (PaLM, arXiv:2204.02311), appendix B."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

from lm_jax.core.config import Tree
from lm_jax.core.trees import Params, named_leaves
from lm_jax.models.attention.config import AttentionConfig
from lm_jax.models.axes import by_path, is_matrix
from lm_jax.models.config import BlockConfig, EncoderDecoderConfig, ModelConfig, StackConfig
from lm_jax.models.stack import segments
from lm_jax.models.stack.block import narrows

# Attention's products with embeddings of relative positions, which a batch computes once.
POSITIONS = ("relative", "place_key", "place_query")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """Tokens that a stack processes for one row of a batch.

    Attributes:
      queries: rows of the residual stream: tokens, and targets of a query stream.
      keys: tokens with keys and values in self-attention.
      source: tokens with keys and values in cross-attention.
      rows: rows of the batch.
      trained: whether there is a backward pass.
      weighted: share of the weights that have gradients.
    """

    queries: int
    keys: int
    source: int = 0
    rows: int = 1
    trained: bool = True
    weighted: float = 1.0

    @property
    def product_of_weights(self) -> float:
        """Operations per multiply-add of a weight."""
        return self.product_of_constant + 2 * self.weighted if self.trained else self.product

    @property
    def product(self) -> float:
        """Operations per multiply-add of the forward pass: 2, and 4 for the gradients of both factors."""
        return 6.0 if self.trained else 2.0

    @property
    def product_of_constant(self) -> float:
        """The same, if one of the factors needs no gradient."""
        return 4.0 if self.trained else 2.0


def training_flops(
    config: ModelConfig,
    shapes: Params,
    axes: Params,
    *,
    length: int,
    read: int,
    source: int = 0,
    targets: int = 0,
    candidates: int = 0,
    heads: Mapping[str, int] = Tree(),
    rows: int = 1,
    trained: bool = True,
    weighted: float = 1.0,
    last: int | None = None,
) -> float:
    """Operations of the forward and backward pass of one row: 6 per weight and token, 12 per query, key and feature.

    These are the matrix products that the model requires, without recomputed activations. As in the paper, attention
    counts every pair of query and key, including those that a causal or prefix mask hides. Keys beyond a window or
    between strides do not count, because the blockwise kernel skips them. Weights count at each use, so shared layers
    count several times, and only the `top` experts of a token count. Lookups do not count, even if they are computed as
    products with one-hot rows (token types, T5's buckets).

    Args:
      config: the model's configuration.
      shapes: shapes of its parameters.
      axes: logical axes of its parameters.
      length: tokens of the row; of an encoder-decoder, decoder tokens.
      read: hidden states of the row with logits over the vocabulary.
      source: encoder tokens.
      targets: rows of the query stream of two-stream attention.
      candidates: logits of single ids, without those of the whole vocabulary.
      heads: by name of another head, such as `pair`: number of hidden states that it reads.
      rows: rows of the batch, which share the products with embeddings of relative positions.
      trained: False: the forward pass alone.
      weighted: share of the weights that are trained; the gradients of frozen ones do not count.
      last: tokens of the row whose last hidden states are read (`Inputs.read`); None: all.

    Example:
      >>> from lm_jax.models.config import EmbedConfig, StackConfig, TransformerConfig
      >>> from lm_jax.models.model import build_model
      >>> config = TransformerConfig(embed=EmbedConfig(width=16), stack=StackConfig(depth=1))
      >>> model = build_model(config, vocab=100)
      >>> training_flops(config, model.shapes, model.axes, length=10, read=10)
      299520.0
    """
    width = config.embed.width
    weights = lambda part: _weights(shapes.get(part, {}), axes.get(part, {}))
    decoder = Row(queries=length + targets, keys=length, source=source, rows=rows, trained=trained, weighted=weighted)
    # The read-out is the token table or a matrix of its shape.
    table = shapes.get("decoder_token", shapes["token"])["embedding"]
    total = read * (table.size + weights("head")) + candidates * table.shape[-1]
    total += sum(count * weights(head) for head, count in heads.items())
    if isinstance(config, EncoderDecoderConfig):
        encoder = dataclasses.replace(decoder, queries=source, keys=source, source=0)
        total += source * weights("encoder_embed") + length * weights("decoder_embed")
        stacks = {"encoder": (config.encoder, encoder), "decoder": (config.decoder, decoder)}
    else:
        total += length * weights("embed")
        total -= 0.0 if last is None else _spared(config.stack, shapes["stack"], axes["stack"], length - last)
        stacks = {"stack": (config.stack, decoder)}
    layers = [_stack(stack, shapes[name], axes[name], width, row) for name, (stack, row) in stacks.items()]
    return decoder.product_of_weights * total + sum(layers)


def _stack(stack: StackConfig, shapes: Params, axes: Params, width: int, row: Row) -> float:
    """Operations of all layers of a stack."""
    total = 0.0
    for kind, count in collections.Counter(layer.kind for layer in segments.layers(stack)).items():
        # Kinds whose parameters have other shapes have their own; see `stack.layers`.
        group_shapes, group_axes = (tree.get(kind, tree)["layers"] for tree in (shapes, axes))
        total += count * _layer(stack.kind(kind), group_shapes, group_axes, width, row)
    return total


def _spared(stack: StackConfig, shapes: Params, axes: Params, tokens: int) -> float:
    """Multiply-adds of the last feed-forward layer for tokens whose last hidden states are not read."""
    kind = segments.layers(stack)[-1].kind
    if not narrows(stack.kind(kind)):
        return 0.0
    group_shapes, group_axes = (tree.get(kind, tree)["layers"]["feedforward"] for tree in (shapes, axes))
    depth = next(leaf.shape[0] for _, leaf in named_leaves(group_shapes))
    return tokens * _weights(group_shapes, group_axes) / depth


def _layer(block: BlockConfig, shapes: Params, axes: Params, width: int, row: Row) -> float:
    """Operations of one layer, whose parameters are stacked in `shapes`."""
    attention = block.attention
    tables = {name: leaf for name, leaf in shapes["attention"].items() if name in POSITIONS}
    content = {**shapes, "attention": {name: leaf for name, leaf in shapes["attention"].items() if name not in tables}}
    experts, names = block.feedforward.experts, by_path(axes)
    total = 0.0
    for path, leaf in named_leaves(content):
        if is_matrix(names[path]):
            share = experts.top / experts.count if "experts" in names[path] else 1.0
            total += row.product_of_weights * share * _tokens(names[path], row) * leaf.size / leaf.shape[0]
    if block.cross is not None:
        total += row.product * _pairs(block.cross, width) * row.queries * row.source
    total += row.product * _pairs(attention, width) * row.queries * _visible(attention, row.keys)
    return total + POSITION_TERMS.get(attention.position, lambda *_: 0.0)(attention, width, row)


def _tokens(names: tuple[str, ...], row: Row) -> int:
    """The number of tokens that a matrix of a layer multiplies."""
    if "memory" in names:
        return row.source
    return row.keys if {"groups", "single"} & {*names} else row.queries


def _weights(shapes: Params, axes: Params) -> float:
    """Number of weights by which a token is multiplied, without readouts."""
    names = by_path(axes)
    matrices = [leaf for path, leaf in named_leaves(shapes) if is_matrix(names[path]) and "vocab" not in names[path]]
    return float(sum(leaf.size for leaf in matrices))


def _pairs(attention: AttentionConfig, width: int) -> float:
    """Multiply-adds per pair of query and key: a score, and a share of the values."""
    return 2.0 * attention.heads * attention.head_width(width)


def _visible(attention: AttentionConfig, keys: int) -> int:
    """The number of keys within the window and stride of a query."""
    if attention.window is None and attention.stride is None:
        return keys
    window = attention.window or 0
    near = 2 * window + 1 if attention.mask == "full" else window
    far = 0 if attention.stride is None else keys // attention.stride
    return min(keys, near + far)


def _transformer_xl(attention: AttentionConfig, width: int, row: Row) -> float:
    """Products of queries with the keys of distances and of types, and the projection of distances to keys."""
    config, features = attention.transformer_xl, attention.heads * attention.head_width(width)
    distances = 2 * row.keys
    scores = row.product * features * row.queries * (distances + (2 if config.types else 0))
    # Sinusoids have no gradient.
    directions = 2 if config.both_ways else 1
    return scores + row.product_of_constant * directions * distances * width * features / row.rows


def _disentangled(attention: AttentionConfig, width: int, row: Row) -> float:
    """Products of queries and keys with the embeddings of relative positions, and the projections of these."""
    config, features = attention.disentangled, attention.heads * attention.head_width(width)
    scores = features * row.keys * 2 * row.keys
    projection = 2 * config.span * width * features / row.rows
    return row.product * (config.terms - 1) * (scores + projection)


# By position: operations of a layer besides those of content.
POSITION_TERMS: dict[str, Any] = {"transformer_xl": _transformer_xl, "disentangled": _disentangled}
