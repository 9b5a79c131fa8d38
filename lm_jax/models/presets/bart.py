"""BART (Lewis et al. 2020, arXiv:1910.13461), Marian (Junczys-Dowmunt et al. 2018, arXiv:1804.00344) and Pegasus.

Encoder-decoders near the original Transformer: BART learns positions and normalises embeddings; Marian's and Pegasus's
(Zhang et al. 2020, arXiv:1912.08777) positions are sinusoids; Pegasus is pre-norm.
Initialisation: normal of 0.02 (the released configurations); dropout 0.1 (the same; BART's also on attention).
"""

from __future__ import annotations

from typing import Any

import ml_collections

from lm_jax.core.config import lookup, to_config_dict
from lm_jax.models import config as models
from lm_jax.models.presets.common import NORMAL, Shape

# Layers of each side. Section 2.1: 6 or 12, with the widths of BERT.
BART = {
    "tiny": dict(depth=2, width=64, heads=2, length=64),
    "base": dict(depth=6, width=768, heads=12, length=1024),
    "large": dict(depth=12, width=1024, heads=16, length=1024),
}
# OPUS-MT (Tiedemann and Thottingal 2020, section 2): "transformer-base"; vocabularies are each pair of languages' own,
# this one is that of English and German.
MARIAN = {
    "tiny": dict(depth=2, width=64, heads=2, length=64),
    "base": dict(depth=6, width=512, heads=8, length=512),
}
# Section 6.
PEGASUS = {
    "tiny": dict(depth=2, width=64, heads=2, length=64),
    "base": dict(depth=12, width=768, heads=12, length=512),
    "large": dict(depth=16, width=1024, heads=16, length=1024),
}


def bart(size: str = "base") -> ml_collections.ConfigDict:
    """BART of a size."""
    shape = lookup(BART, size, "the size of bart")
    return _two_stacks(shape, activation="gelu", attention_dropout=0.1, positions="learned", offset=2, norm=True)


def marian(size: str = "base") -> ml_collections.ConfigDict:
    """Marian as OPUS-MT trained it; its logits have a bias."""
    shape = lookup(MARIAN, size, "the size of marian")
    readout = models.ReadoutConfig(bias=True)
    return _two_stacks(shape, activation="silu", readout=readout, positions="sinusoidal_halves", scale=True)


def pegasus(size: str = "large") -> ml_collections.ConfigDict:
    """Pegasus of a size."""
    shape = lookup(PEGASUS, size, "the size of pegasus")
    return _two_stacks(
        shape, activation="relu", placement="pre", attention_dropout=0.1, positions="sinusoidal_halves", scale=True
    )


def _two_stacks(
    shape: Shape,
    *,
    activation: str,
    placement: str = "post",
    attention_dropout: float = 0.0,
    readout: models.ReadoutConfig | None = None,
    **embed: Any,
) -> ml_collections.ConfigDict:
    """An encoder and a decoder of the same shape; `embed` is what the embedding has that defaults have not."""
    norm = models.NormConfig()

    def stack(mask: str) -> models.StackConfig:
        own, cross = (
            models.AttentionConfig(heads=shape["heads"], mask=seen, dropout=attention_dropout)
            for seen in (mask, "full")
        )
        block = models.BlockConfig(
            attention=own,
            feedforward=models.FeedForwardConfig(activation=activation),
            norm=norm,
            norm_placement=placement,
            cross=cross if mask == "causal" else None,
            dropout=0.1,
        )
        return models.StackConfig(depth=shape["depth"], block=block)

    return to_config_dict(
        models.EncoderDecoderConfig(
            embed=models.EmbedConfig(width=shape["width"], max_length=shape["length"], dropout=0.1, **embed),
            encoder=stack("full"),
            decoder=stack("causal"),
            norm=norm,
            final_norm=placement == "pre",
            readout=readout or models.ReadoutConfig(),
            init=NORMAL,
        )
    )
