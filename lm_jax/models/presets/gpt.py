"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"): a pre-norm decoder.

Initialisation: N(0, 0.02), positions N(0, 0.01), matrices that write to the residual stream divided by the square root
of the number of residual branches (section 2.3 gives the last rule, the released code the figures).
"""

from __future__ import annotations

import ml_collections

from lm_jax.core.config import lookup, to_config_dict
from lm_jax.models import config as models

# Table 2: layers, width; heads of 64 (the released hyper-parameters).
SIZES = {
    "tiny": dict(depth=2, width=64, heads=2, length=64),
    "mini": dict(depth=6, width=384, heads=6, length=256),
    "small": dict(depth=12, width=768, heads=12, length=1024),
    "medium": dict(depth=24, width=1024, heads=16, length=1024),
    "large": dict(depth=36, width=1280, heads=20, length=1024),
    "xl": dict(depth=48, width=1600, heads=25, length=1024),
}


def gpt2(size: str = "small") -> ml_collections.ConfigDict:
    """GPT-2 of a size of table 2 (`small` is the 117M-named model of 124M parameters), or `tiny` and `mini`."""
    shape = lookup(SIZES, size, "the size of gpt2")
    block = models.BlockConfig(
        attention=models.AttentionConfig(heads=shape["heads"], mask="causal"),
        feedforward=models.FeedForwardConfig(activation="gelu_tanh"),
    )
    return to_config_dict(
        models.TransformerConfig(
            kind="decoder",
            embed=models.EmbedConfig(width=shape["width"], positions="learned", max_length=shape["length"]),
            stack=models.StackConfig(depth=shape["depth"], block=block),
            init=models.InitConfig(name="normal", stddev=0.02, position_stddev=0.01, scale_residual=True),
        )
    )
