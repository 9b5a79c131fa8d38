"""GPT (Radford et al. 2018), GPT-2 (2019) and GPT-3 (Brown et al. 2020, arXiv:2005.14165): decoders.

GPT ("Improving Language Understanding by Generative Pre-Training") is post-norm; GPT-2 ("Language Models are
Unsupervised Multitask Learners") is pre-norm; every other layer of GPT-3 has banded attention.

Initialisation: N(0, 0.02). In GPT-2 and GPT-3, positions are N(0, 0.01), and matrices that write to the residual stream
are divided by the square root of the number of residual branches (section 2.3; 0.02 and 0.01: the released code).
"""

from __future__ import annotations

import dataclasses

import ml_collections

from lm_jax.core.config import Tree, lookup
from lm_jax.models import config as models
from lm_jax.models.presets.common import NORMAL, SCALED, one_stack

NORM = models.NormConfig()
INIT = dataclasses.replace(SCALED, position_stddev=0.01)

# Section 4.1.
GPT = {"tiny": dict(depth=2, width=64, heads=2, length=64), "base": dict(depth=12, width=768, heads=12, length=512)}
# Table 2: layers, width; heads of 64 (the released hyper-parameters).
SIZES = {
    "tiny": dict(depth=2, width=64, heads=2, length=64),
    "mini": dict(depth=6, width=384, heads=6, length=256),
    "small": dict(depth=12, width=768, heads=12, length=1024),
    "medium": dict(depth=24, width=1024, heads=16, length=1024),
    "large": dict(depth=36, width=1280, heads=20, length=1024),
    "xl": dict(depth=48, width=1600, heads=25, length=1024),
}
# Table 2.1. Its 24 heads of 128 for 1.3B do not fit a width of 2,048 and would give 1.5B parameters; 16 heads fit. Its
# 40 heads of 128 for 13B are 5,120 features in a width of 5,140, as printed.
GPT3 = {
    "tiny": dict(depth=2, width=64, heads=2, window=16, length=64),
    "125m": dict(depth=12, width=768, heads=12),
    "350m": dict(depth=24, width=1024, heads=16),
    "760m": dict(depth=24, width=1536, heads=16),
    "1.3b": dict(depth=24, width=2048, heads=16),
    "2.7b": dict(depth=32, width=2560, heads=32),
    "6.7b": dict(depth=32, width=4096, heads=32),
    "13b": dict(depth=40, width=5140, heads=40, head_dim=128),
    "175b": dict(depth=96, width=12288, heads=96),
}


def gpt(size: str = "base") -> ml_collections.ConfigDict:
    """Return GPT's configuration in one of the `GPT` sizes."""
    shape = lookup(GPT, size, "the size of gpt")
    feedforward = dict(activation="gelu_tanh")
    return one_stack(
        shape, norm=NORM, placement="post", feedforward=feedforward, dropout=0.1, final_norm=False, init=NORMAL
    )


def gpt2(size: str = "small") -> ml_collections.ConfigDict:
    """Return GPT-2's configuration.

    Args:
      size: one of `SIZES`; `small` is the 124M model that the paper calls 117M.

    Raises:
      InputError: unknown size.

    Reference:
      Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", table 2.

    Example:
      >>> config = gpt2("medium")
      >>> config.stack.depth, config.embed.width, config.stack.block.attention.heads
      (24, 1024, 16)
      >>> config.update_from_flattened_dict({"stack.depth": 2, "stack.block.dropout": 0.1})
      >>> config.stack.depth, config.stack.block.dropout
      (2, 0.1)
    """
    shape = lookup(SIZES, size, "the size of gpt2")
    return one_stack(shape, norm=NORM, feedforward=dict(activation="gelu_tanh"), init=INIT)


def gpt3(size: str = "125m") -> ml_collections.ConfigDict:
    """Return GPT-3's configuration in one of the `GPT3` sizes; the width of the band, not published, is 256."""
    shape = {"length": 2048, "window": 256, **lookup(GPT3, size, "the size of gpt3")}
    local = Tree(attention=Tree(window=shape["window"]))
    stack = dict(kinds=Tree(local=local), pattern=("block", "local"))
    return one_stack(shape, norm=NORM, feedforward=dict(activation="gelu_tanh"), stack=stack, init=INIT)
