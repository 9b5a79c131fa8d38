"""T5 (Raffel et al. 2020, arXiv:1910.10683) and its relatives: pre-norm encoder-decoders.

Attention adds a bias for each bucket of relative positions. mT5 (Xue et al. 2021, arXiv:2010.11934) is T5 v1.1 with a
vocabulary for 101 languages; UMT5 (Chung et al. 2023, arXiv:2304.09151) has a bias table in each layer, as
have the decoders without encoder of Wang et al. (2022, arXiv:2204.05832), which are causal or have a prefix.
Initialisation: variance 1 / fan-in; queries 1 / (fan-in head_dim), because scores are not scaled (the released code).
"""

from __future__ import annotations

import ml_collections

from lm_jax.core.config import lookup
from lm_jax.models import config as models
from lm_jax.models.presets.common import Shape, one_stack, two_stacks

# `depth` counts the layers of each side. Version 1.0: section 3.7 and the released configurations.
V1_0 = {
    "tiny": dict(depth=2, width=64, heads=2, head_dim=32, mlp=256),
    "small": dict(depth=6, width=512, heads=8, head_dim=64, mlp=2048),
    "base": dict(depth=12, width=768, heads=12, head_dim=64, mlp=3072),
    "large": dict(depth=24, width=1024, heads=16, head_dim=64, mlp=4096),
    "3b": dict(depth=24, width=1024, heads=32, head_dim=128, mlp=16384),
    "11b": dict(depth=24, width=1024, heads=128, head_dim=128, mlp=65536),
}
# Version 1.1: the released configurations (google-research/text-to-text-transfer-transformer, released_checkpoints.md).
SIZES = {
    "tiny": dict(depth=2, width=64, heads=2, head_dim=32, mlp=128),
    "small": dict(depth=8, width=512, heads=6, head_dim=64, mlp=1024),
    "base": dict(depth=12, width=768, heads=12, head_dim=64, mlp=2048),
    "large": dict(depth=24, width=1024, heads=16, head_dim=64, mlp=2816),
    "xl": dict(depth=24, width=2048, heads=32, head_dim=64, mlp=5120),
    "xxl": dict(depth=24, width=4096, heads=64, head_dim=64, mlp=10240),
}
VERSIONS = {"1.0": V1_0, "1.1": SIZES}
# Section 3.2: the shapes of v1.1.
MT5 = {name: dict(shape) for name, shape in SIZES.items()}
# The released configurations.
UMT5 = {name: dict(SIZES[name]) for name in ("tiny", "small", "base", "xl", "xxl")}
# Wang et al. 2022; t5x's decoder_only/models/xxl.gin has the same numbers and states the count of parameters.
DECODER = {
    "tiny": dict(depth=2, width=64, heads=2, head_dim=32, mlp=128),
    "4.8b": dict(depth=24, width=4096, heads=64, head_dim=64, mlp=10240),
}


def t5(size: str = "small", *, version: str = "1.1") -> ml_collections.ConfigDict:
    """Return T5's configuration.

    Args:
      size: one of the version's sizes.
      version: "1.0" (ReLU, tied and scaled readout) or "1.1" (gated GELU, untied readout).

    Raises:
      InputError: unknown size or version.

    Reference:
      Raffel et al. 2020, arXiv:1910.10683, section 2.1.

    Example:
      >>> config = t5("base")
      >>> config.encoder.depth, config.encoder.block.feedforward.activation, config.readout.tied
      (12, 'gelu_tanh', False)
      >>> config.decoder.depth = 6
      >>> t5("base", version="1.0").decoder.block.feedforward.activation
      'relu'
    """
    shape = lookup(lookup(VERSIONS, version, "the version of t5"), size, "the size of t5")
    return _encoder_decoder(shape, gated=version == "1.1")


def t5_v1_0(size: str = "small") -> ml_collections.ConfigDict:
    """Return the configuration of the paper's T5 in one of the `V1_0` sizes."""
    return t5(size, version="1.0")


def mt5(size: str = "small") -> ml_collections.ConfigDict:
    """Return mT5's configuration in one of the `MT5` sizes."""
    return _encoder_decoder(lookup(MT5, size, "the size of mt5"), gated=True)


def umt5(size: str = "small") -> ml_collections.ConfigDict:
    """Return UMT5's configuration in one of the `UMT5` sizes."""
    return _encoder_decoder(lookup(UMT5, size, "the size of umt5"), gated=True, shared=False)


def t5_decoder(size: str = "4.8b") -> ml_collections.ConfigDict:
    """Return a T5 v1.1 decoder without encoder in one of the `DECODER` sizes; its readout is tied."""
    return one_stack(
        lookup(DECODER, size, "the size of t5_decoder"),
        norm=models.NormConfig(name="rms", epsilon=1e-6),
        attention=dict(
            position="buckets", buckets=models.BucketConfig(shared=False), scale=1.0, bias=False, out_bias=False
        ),
        feedforward=dict(activation="gelu_tanh", gated=True, bias=False),
        embed=dict(positions="none"),
        readout=models.ReadoutConfig(tied=True, scale=True),
        init=models.InitConfig(name="fan_in", embed_stddev=1.0),
    )


def _encoder_decoder(shape: Shape, *, gated: bool, shared: bool = True) -> ml_collections.ConfigDict:
    """Return T5 v1.0 or v1.1 (`gated`); `shared`: all layers of a side share one table of relative positions."""
    dropout = 0.0 if gated else 0.1  # v1.1 and mT5 were pre-trained without dropout.
    activation = "gelu_tanh" if gated else "relu"
    return two_stacks(
        shape,
        norm=models.NormConfig(name="rms", epsilon=1e-6),
        attention=dict(buckets=models.BucketConfig(shared=shared), scale=1.0, bias=False, out_bias=False),
        self_attention=dict(position="buckets"),
        feedforward=dict(activation=activation, gated=gated, bias=False, dropout=dropout),
        embed=dict(positions="none"),
        dropout=dropout,
        readout=models.ReadoutConfig(tied=not gated, scale=not gated),
        init=models.InitConfig(name="fan_in", embed_stddev=1.0),
    )
