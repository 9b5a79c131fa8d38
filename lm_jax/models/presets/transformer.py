"""The original Transformer (Vaswani et al. 2017, arXiv:1706.03762): a post-norm encoder-decoder with sinusoids.

Initialisation: Xavier uniform matrices, N(0, 1 / width) embeddings that are scaled by sqrt(width) (the released code).
"""

from __future__ import annotations

from typing import Any

import ml_collections

from lm_jax.core.config import lookup, to_config_dict
from lm_jax.models import config as models

# Table 3: N, d_model, d_ff, h, P_drop.
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(depth=2, width=64, mlp=128, heads=2, dropout=0.1),
    "base": dict(depth=6, width=512, mlp=2048, heads=8, dropout=0.1),
    "big": dict(depth=6, width=1024, mlp=4096, heads=16, dropout=0.3),
}


def transformer(size: str = "base") -> ml_collections.ConfigDict:
    """The Transformer of a row of table 3."""
    shape = lookup(SIZES, size, "the size of transformer")
    norm = models.NormConfig(epsilon=1e-6)

    def stack(mask: str, cross: models.AttentionConfig | None) -> models.StackConfig:
        block = models.BlockConfig(
            attention=models.AttentionConfig(heads=shape["heads"], mask=mask, bias=False, out_bias=False),
            feedforward=models.FeedForwardConfig(width=shape["mlp"], activation="relu"),
            norm=norm,
            norm_placement="post",
            cross=cross,
            dropout=shape["dropout"],
        )
        return models.StackConfig(depth=shape["depth"], block=block)

    cross = models.AttentionConfig(heads=shape["heads"], mask="full", bias=False, out_bias=False)
    return to_config_dict(
        models.EncoderDecoderConfig(
            embed=models.EmbedConfig(
                width=shape["width"], positions="sinusoidal", scale=True, dropout=shape["dropout"]
            ),
            encoder=stack("full", None),
            decoder=stack("causal", cross),
            norm=norm,
            final_norm=False,
            init=models.InitConfig(name="xavier_uniform", embed_stddev=shape["width"] ** -0.5),
        )
    )
