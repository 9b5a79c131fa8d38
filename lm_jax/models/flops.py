"""Floating-point operations that a model needs for a row, after Chowdhery et al. 2022 (PaLM), appendix B."""

from __future__ import annotations

import math

from lm_jax.core.trees import Params, named_leaves
from lm_jax.models.axes import by_path, is_matrix
from lm_jax.models.config import AttentionConfig, EncoderDecoderConfig, ModelConfig, StackConfig
from lm_jax.models.stack import segments


def training_flops(
    config: ModelConfig, shapes: Params, axes: Params, *, length: int, read: int, source: int = 0
) -> float:
    """Operations of the forward and backward pass of one row: 6 per weight and token, 12 per pair of tokens and unit.

    A weight counts as often as it is used (shared layers), a pair where a window leaves it in reach.

    Args:
      config: the model.
      shapes: its parameters.
      axes: their logical axes.
      length: tokens of the row; of an encoder-decoder, those of the decoder.
      read: positions whose logits are computed.
      source: tokens of the encoder.
    """
    width, table = config.embed.width, math.prod(shapes["token"]["embedding"].shape)
    weights = lambda part, *which: _weights(shapes.get(part, {}), axes.get(part, {}), *which)
    # Logits are made with the token table, or with a matrix of its shape.
    total = 6.0 * read * (table + weights("head"))
    if isinstance(config, EncoderDecoderConfig):
        encoder, decoder = _uses(config.encoder), _uses(config.decoder)
        read_by = encoder * weights("encoder", config.encoder) + weights("encoder_embed")
        written_by = decoder * weights("decoder", config.decoder) + weights("decoder_embed")
        # Keys and values of cross-attention are made of the encoder's tokens.
        memory = decoder * weights("decoder", config.decoder, True)
        total += 6.0 * source * (read_by + memory) + 6.0 * length * written_by
        blocks = segments.kinds(config.decoder)
        reads = [blocks[layer.kind].cross for layer in segments.layers(config.decoder)]
        total += sum(_pairs(attention, width, length, source) for attention in reads if attention is not None)
        return total + _own_pairs(config.encoder, width, source) + _own_pairs(config.decoder, width, length)
    matrices = _uses(config.stack) * weights("stack", config.stack) + weights("embed")
    return total + 6.0 * length * matrices + _own_pairs(config.stack, width, length)


def _weights(shapes: Params, axes: Params, stack: StackConfig | None = None, memory: bool = False) -> float:
    """Weights of the matrices that a token meets, or with `memory` one of the encoder's tokens; no readouts.

    Of experts only those count that a token takes.
    """
    experts = None if stack is None else stack.block.feedforward.experts
    share = experts.top / experts.count if experts and experts.count else 1.0
    names = by_path(axes)
    return sum(
        leaf.size * (share if "experts" in names[path] else 1.0)
        for path, leaf in named_leaves(shapes)
        if is_matrix(names[path]) and "vocab" not in names[path] and ("memory" in names[path]) == memory
    )


def _uses(stack: StackConfig) -> float:
    """How many layers use each set of parameters, in the mean."""
    return stack.depth / len({layer.owner for layer in segments.layers(stack)})


def _own_pairs(stack: StackConfig, width: int, length: int) -> float:
    blocks = segments.kinds(stack)
    return sum(_pairs(blocks[layer.kind].attention, width, length, length) for layer in segments.layers(stack))


def _pairs(attention: AttentionConfig, width: int, queries: int, keys: int) -> float:
    """Operations of all queries with the keys that they may see; causal masks count as full ones, as in the paper."""
    seen = keys
    if attention.window is not None or attention.stride is not None:
        window = attention.window or 0
        near = 2 * window + 1 if attention.mask == "full" else window
        far = 0 if attention.stride is None else keys // attention.stride
        seen = min(keys, near + far)
    return 12.0 * attention.heads * attention.head_width(width) * queries * seen
