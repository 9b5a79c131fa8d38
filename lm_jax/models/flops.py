"""Floating-point operations that a model needs for a row, after Chowdhery et al. 2022 (PaLM), appendix B."""

from __future__ import annotations

import math
from typing import Any

from lm_jax.core.trees import named_leaves
from lm_jax.models.config import EncoderDecoderConfig, ModelConfig, StackConfig


def training_flops(config: ModelConfig, shapes: Any, *, length: int, read: int, source: int = 0) -> float:
    """Operations of the forward and backward pass of one row: 6 per weight and token, 12 per pair of tokens and unit.

    Args:
      config: the model.
      shapes: its parameters.
      length: tokens of the row; of an encoder-decoder, those of the decoder.
      read: positions whose logits are computed.
      source: tokens of the encoder.
    """
    table = next(leaf for path, leaf in named_leaves(shapes) if path == "token/embedding")
    total = 6.0 * read * (math.prod(table.shape) + _kernels(shapes, "head/transform"))
    width = config.embed.width
    if isinstance(config, EncoderDecoderConfig):
        total += 6.0 * source * (_kernels(shapes, "encoder/") + _kernels(shapes, "decoder/.*cross/(key|value)"))
        total += 6.0 * length * (_kernels(shapes, "decoder/") - _kernels(shapes, "decoder/.*cross/(key|value)"))
        return (
            total
            + _pairs(config.encoder, width, source, source)
            + _pairs(config.decoder, width, length, length)
            + (_pairs(config.decoder, width, length, source))
        )
    return total + 6.0 * length * _kernels(shapes, "stack/") + _pairs(config.stack, width, length, length)


def _kernels(shapes: Any, pattern: str) -> int:
    """Weights of the kernels under a path."""
    import re

    return sum(leaf.size for path, leaf in named_leaves(shapes) if path.endswith("kernel") and re.match(pattern, path))


def _pairs(stack: StackConfig, width: int, queries: int, keys: int) -> float:
    attention = stack.block.attention
    return 12.0 * stack.depth * attention.heads * attention.head_width(width) * queries * keys
