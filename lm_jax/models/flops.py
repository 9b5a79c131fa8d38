"""Floating-point operations of training, after Chowdhery et al. 2022 (PaLM), appendix B."""

from __future__ import annotations

import math

from lm_jax.core.trees import Params, named_leaves
from lm_jax.models.axes import by_path, is_matrix
from lm_jax.models.config import AttentionConfig, EncoderDecoderConfig, ModelConfig, StackConfig
from lm_jax.models.stack import segments


def training_flops(
    config: ModelConfig, shapes: Params, axes: Params, *, length: int, read: int, source: int = 0
) -> float:
    """Operations of the forward and backward pass of one row: 6 per weight and token, 12 per query, key and feature.

    Shared weights count at each use; keys outside a window do not count.

    Args:
      config: the model's configuration.
      shapes: shapes of its parameters.
      axes: logical axes of its parameters.
      length: tokens of the row; of an encoder-decoder, decoder tokens.
      read: tokens of the row with logits.
      source: encoder tokens.

    Example:
      >>> from lm_jax.models.config import EmbedConfig, StackConfig, TransformerConfig
      >>> from lm_jax.models.model import build_model
      >>> config = TransformerConfig(embed=EmbedConfig(width=16), stack=StackConfig(depth=1))
      >>> model = build_model(config, vocab=100)
      >>> training_flops(config, model.shapes, model.axes, length=10, read=10)
      299520.0
    """
    width, table = config.embed.width, math.prod(shapes["token"]["embedding"].shape)
    weights = lambda part, *options: _weights(shapes.get(part, {}), axes.get(part, {}), *options)
    # The read-out is the token table or a matrix of its shape.
    total = 6.0 * read * (table + weights("head"))
    if isinstance(config, EncoderDecoderConfig):
        encoder, decoder = _layers_per_set(config.encoder), _layers_per_set(config.decoder)
        encoder_weights = encoder * weights("encoder", config.encoder) + weights("encoder_embed")
        decoder_weights = decoder * weights("decoder", config.decoder) + weights("decoder_embed")
        # Cross-attention projects the encoder's tokens to keys and values.
        memory = decoder * weights("decoder", config.decoder, True)
        total += 6.0 * source * (encoder_weights + memory) + 6.0 * length * decoder_weights
        blocks = segments.kinds(config.decoder)
        crosses = [blocks[layer.kind].cross for layer in segments.layers(config.decoder)]
        total += sum(_attention(cross, width, length, source) for cross in crosses if cross is not None)
        return total + _self_attention(config.encoder, width, source) + _self_attention(config.decoder, width, length)
    matrices = _layers_per_set(config.stack) * weights("stack", config.stack) + weights("embed")
    return total + 6.0 * length * matrices + _self_attention(config.stack, width, length)


def _weights(shapes: Params, axes: Params, stack: StackConfig | None = None, memory: bool = False) -> float:
    """Number of weights by which a token is multiplied, without readouts and with only the `top` experts of the token.

    With `memory`: the weights by which cross-attention multiplies each encoder token, instead.
    """
    experts = None if stack is None else stack.block.feedforward.experts
    share = experts.top / experts.count if experts and experts.count else 1.0
    names = by_path(axes)
    return sum(
        leaf.size * (share if "experts" in names[path] else 1.0)
        for path, leaf in named_leaves(shapes)
        if is_matrix(names[path]) and "vocab" not in names[path] and ("memory" in names[path]) == memory
    )


def _layers_per_set(stack: StackConfig) -> float:
    """Mean number of layers per set of parameters."""
    return stack.depth / len({layer.owner for layer in segments.layers(stack)})


def _self_attention(stack: StackConfig, width: int, length: int) -> float:
    blocks = segments.kinds(stack)
    return sum(_attention(blocks[layer.kind].attention, width, length, length) for layer in segments.layers(stack))


def _attention(attention: AttentionConfig, width: int, queries: int, keys: int) -> float:
    """Operations of all pairs of query and visible key; causal masks count as full, as in the paper."""
    visible = keys
    if attention.window is not None or attention.stride is not None:
        window = attention.window or 0
        near = 2 * window + 1 if attention.mask == "full" else window
        far = 0 if attention.stride is None else keys // attention.stride
        visible = min(keys, near + far)
    return 12.0 * attention.heads * attention.head_width(width) * queries * visible
