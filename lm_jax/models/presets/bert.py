"""BERT (Devlin et al. 2019, arXiv:1810.04805) and its relatives: post-norm encoders for masked tokens.

RoBERTa (Liu et al. 2019, arXiv:1907.11692) drops sentence pairs. DistilBERT (Sanh et al. 2019, arXiv:1910.01108) drops
every second layer. ALBERT (Lan et al. 2020, arXiv:1909.11942) applies one layer repeatedly. ELECTRA (Clark et al. 2020,
arXiv:2003.10555) trains a discriminator to detect the tokens that a small generator replaced.

Initialisation: N(0, 0.02), for BERT and ALBERT truncated at two standard deviations (the released code).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_collections

from lm_jax.core.config import lookup
from lm_jax.models import config as models
from lm_jax.models.presets.common import NORMAL, Shape, one_stack

TRUNCATED = models.InitConfig(name="truncated_normal", stddev=0.02)
# The heads of tasks, as in transformers' classes; RoBERTa's and ELECTRA's have dropout before the dense layer too.
POOLER = models.TaskHeadConfig(dense=True, activation="tanh", dropout=0.1)
TWICE_DROPPED = dataclasses.replace(POOLER, dense_dropout=0.1)
GELU = dataclasses.replace(TWICE_DROPPED, activation="gelu")
RELU = dataclasses.replace(POOLER, activation="relu", dropout=0.2)

# `base` and `large`: section 3; `mini` and `small`: Turc et al. 2019 (arXiv:1908.08962), table 1.
SIZES = {
    "tiny": dict(depth=2, width=64, heads=2, length=128),
    "mini": dict(depth=4, width=256, heads=4, length=512),
    "small": dict(depth=4, width=512, heads=8, length=512),
    "base": dict(depth=12, width=768, heads=12, length=512),
    "large": dict(depth=24, width=1024, heads=16, length=512),
}
# Table 9.
ROBERTA = {name: dict(SIZES[name]) for name in ("tiny", "base", "large")}
# Section 3: half of the layers of BERT base.
DISTILBERT = {"tiny": dict(SIZES["tiny"]), "base": dict(depth=6, width=768, heads=12, length=512)}
# Table 1; heads from the released configurations (version 2).
ALBERT = {
    "tiny": dict(depth=2, width=64, heads=2, factor=32, length=128),
    "base": dict(depth=12, width=768, heads=12, factor=128, length=512),
    "large": dict(depth=24, width=1024, heads=16, factor=128, length=512),
    "xlarge": dict(depth=24, width=2048, heads=16, factor=128, length=512),
    "xxlarge": dict(depth=12, width=4096, heads=64, factor=128, length=512),
}
# Appendix A, table 6.
ELECTRA = {
    "tiny": dict(depth=2, width=64, heads=2, factor=32, length=128),
    "small": dict(depth=12, width=256, heads=4, factor=128, length=512),
    "base": dict(depth=12, width=768, heads=12, length=512),
    "large": dict(depth=24, width=1024, heads=16, length=512),
}
# The same table: the discriminator's widths times "generator size" (1/4, 1/3, 1/4); token embeddings keep the
# discriminator's width. The released small generator is as large as its discriminator, not a quarter.
GENERATOR = {
    "tiny": dict(depth=2, width=16, heads=1, factor=32, length=128),
    "small": dict(depth=12, width=64, heads=1, factor=128, length=512),
    "base": dict(depth=12, width=256, heads=4, factor=768, length=512),
    "large": dict(depth=24, width=256, heads=4, factor=1024, length=512),
}


def bert(size: str = "base") -> ml_collections.ConfigDict:
    """Return BERT's configuration, with the masked-LM and next-sentence heads.

    Args:
      size: one of `SIZES`.

    Raises:
      InputError: unknown size.

    Reference:
      Devlin et al. 2019, arXiv:1810.04805, section 3.

    Example:
      >>> config = bert("large")
      >>> config.stack.depth, config.embed.width, config.stack.block.norm_placement
      (24, 1024, 'post')
      >>> config.pair_classes = 0  # Removes the next-sentence head.
    """
    return encoder(lookup(SIZES, size, "the size of bert"), pair_classes=2, init=TRUNCATED)


def roberta(size: str = "base") -> ml_collections.ConfigDict:
    """Return RoBERTa's configuration in one of the `ROBERTA` sizes; positions start at row pad + 1."""
    shape = lookup(ROBERTA, size, "the size of roberta")
    return encoder(shape, epsilon=1e-5, embed=dict(types=1, offset=2), task=TWICE_DROPPED)


def distilbert(size: str = "base") -> ml_collections.ConfigDict:
    """Return the configuration of DistilBERT, distilled from BERT of that size."""
    return encoder(lookup(DISTILBERT, size, "the size of distilbert"), embed=dict(types=0), task=RELU)


def albert(size: str = "base") -> ml_collections.ConfigDict:
    """Return the configuration of ALBERT, version 2, without dropout; its pair head predicts sentence order."""
    shape = lookup(ALBERT, size, "the size of albert")
    stack = dict(share=models.ShareConfig(groups=1))
    return encoder(shape, activation="gelu_tanh", dropout=0.0, stack=stack, pair_classes=2, init=TRUNCATED)


def electra(size: str = "small") -> ml_collections.ConfigDict:
    """Return the configuration of ELECTRA's discriminator, which predicts no tokens."""
    return encoder(lookup(ELECTRA, size, "the size of electra"), readout=models.ReadoutConfig(), task=GELU)


def electra_generator(size: str = "small") -> ml_collections.ConfigDict:
    """Return the configuration of the generator that trains ELECTRA's discriminator of that size."""
    return encoder(lookup(GENERATOR, size, "the size of electra_generator"), task=GELU)


def encoder(
    shape: Shape, *, epsilon: float = 1e-12, activation: str = "gelu", dropout: float = 0.1, **options: Any
) -> ml_collections.ConfigDict:
    """Return an encoder with BERT's defaults; `options` are other arguments of `one_stack`."""
    factor = {"factor": shape["factor"]} if "factor" in shape else {}
    embed = {"types": 2, "norm": True, **factor, **options.pop("embed", {})}
    readout = options.pop("readout", models.ReadoutConfig(bias=True, transform=activation))
    return one_stack(
        shape,
        kind="encoder",
        norm=models.NormConfig(epsilon=epsilon),
        placement="post",
        feedforward=dict(activation=activation),
        embed=embed,
        dropout=dropout,
        readout=readout,
        final_norm=False,
        **{"init": NORMAL, "task": POOLER, **options},
    )
