"""BERT (Devlin et al. 2019, arXiv:1810.04805): a post-norm encoder with masked-LM and next-sentence heads.

Initialisation: normal of 0.02 truncated at two standard deviations (the released code).
"""

from __future__ import annotations

import ml_collections

from lm_jax.core.config import lookup, to_config_dict
from lm_jax.models import config as models

# `base` and `large`: section 3; `mini` and `small`: Turc et al. 2019 (arXiv:1908.08962), table 1.
SIZES = {
    "tiny": dict(depth=2, width=64, heads=2, length=128),
    "mini": dict(depth=4, width=256, heads=4, length=512),
    "small": dict(depth=4, width=512, heads=8, length=512),
    "base": dict(depth=12, width=768, heads=12, length=512),
    "large": dict(depth=24, width=1024, heads=16, length=512),
}


def bert(size: str = "base") -> ml_collections.ConfigDict:
    """BERT of a size."""
    shape = lookup(SIZES, size, "the size of bert")
    norm = models.NormConfig(epsilon=1e-12)
    block = models.BlockConfig(
        attention=models.AttentionConfig(heads=shape["heads"], mask="full", dropout=0.1),
        feedforward=models.FeedForwardConfig(activation="gelu"),
        norm=norm,
        norm_placement="post",
        dropout=0.1,
    )
    return to_config_dict(
        models.TransformerConfig(
            kind="encoder",
            embed=models.EmbedConfig(
                width=shape["width"], positions="learned", max_length=shape["length"], types=2, norm=True, dropout=0.1
            ),
            stack=models.StackConfig(depth=shape["depth"], block=block),
            norm=norm,
            final_norm=False,
            readout=models.ReadoutConfig(bias=True, transform="gelu"),
            pair_classes=2,
            init=models.InitConfig(name="truncated_normal", stddev=0.02),
        )
    )
