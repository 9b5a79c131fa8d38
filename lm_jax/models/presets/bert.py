"""BERT (Devlin et al. 2019, arXiv:1810.04805) and its kin: post-norm encoders that guess masked tokens.

RoBERTa (Liu et al. 2019, arXiv:1907.11692) leaves out sentence pairs, DistilBERT (Sanh et al. 2019, arXiv:1910.01108)
every second layer, ALBERT (Lan et al. 2020, arXiv:1909.11942) all layers but one, which it applies again and again, and
ELECTRA (Clark et al. 2020, arXiv:2003.10555) has a small one guess tokens that a large one then judges.

Initialisation: normal of 0.02, BERT's and ALBERT's truncated at two standard deviations (the released code).
"""

from __future__ import annotations

from typing import Any

import ml_collections

from lm_jax.core.config import lookup
from lm_jax.models import config as models
from lm_jax.models.presets.common import NORMAL, Shape, one_stack

TRUNCATED = models.InitConfig(name="truncated_normal", stddev=0.02)

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
# The same, multiplied by its line "generator size" (1/4, 1/3, 1/4); tables of tokens are the discriminator's. The
# released small one is not a quarter but as large as its discriminator.
GENERATOR = {
    "tiny": dict(depth=2, width=16, heads=1, factor=32, length=128),
    "small": dict(depth=12, width=64, heads=1, factor=128, length=512),
    "base": dict(depth=12, width=256, heads=4, factor=768, length=512),
    "large": dict(depth=24, width=256, heads=4, factor=1024, length=512),
}


def bert(size: str = "base") -> ml_collections.ConfigDict:
    """BERT of a size, with the heads of masked tokens and of next sentences."""
    return encoder(lookup(SIZES, size, "the size of bert"), pair_classes=2, init=TRUNCATED)


def roberta(size: str = "base") -> ml_collections.ConfigDict:
    """RoBERTa of a size; its code counts positions from that of the padding token on."""
    shape = lookup(ROBERTA, size, "the size of roberta")
    return encoder(shape, epsilon=1e-5, embed=dict(types=1, offset=2))


def distilbert(size: str = "base") -> ml_collections.ConfigDict:
    """DistilBERT, the student of BERT of that size."""
    return encoder(lookup(DISTILBERT, size, "the size of distilbert"), embed=dict(types=0))


def albert(size: str = "base") -> ml_collections.ConfigDict:
    """ALBERT of a size, version 2, which has no dropout; its pairs are sentences in order or swapped."""
    shape = lookup(ALBERT, size, "the size of albert")
    stack = dict(share=models.ShareConfig(groups=1))
    return encoder(shape, activation="gelu_tanh", dropout=0.0, stack=stack, pair_classes=2, init=TRUNCATED)


def electra(size: str = "small") -> ml_collections.ConfigDict:
    """ELECTRA's discriminator of a size, which writes no tokens."""
    return encoder(lookup(ELECTRA, size, "the size of electra"), readout=models.ReadoutConfig())


def electra_generator(size: str = "small") -> ml_collections.ConfigDict:
    """The generator beside ELECTRA's discriminator of that size."""
    return encoder(lookup(GENERATOR, size, "the size of electra_generator"))


def encoder(
    shape: Shape, *, epsilon: float = 1e-12, activation: str = "gelu", dropout: float = 0.1, **options: Any
) -> ml_collections.ConfigDict:
    """BERT's skeleton; `options` are those of `one_stack` that are not BERT's."""
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
        **{"init": NORMAL, **options},
    )
