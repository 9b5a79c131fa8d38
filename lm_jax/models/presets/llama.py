"""LLaMA (Touvron et al. 2023, arXiv:2302.13971), LLaMA-2 (arXiv:2307.09288) and LLaMA-3 (2024, arXiv:2407.21783).

Pre-norm decoders with rotary positions, RMS norm, SwiGLU and no biases. The large LLaMA-2 models and all LLaMA-3 models
have grouped-query attention; from 3.1 on, low rotary frequencies are scaled for longer inputs.
The papers do not give the initialisation; N(0, 0.02) with scaled residual writes is GPT-2's.
"""

from __future__ import annotations

from typing import Any

import ml_collections

from lm_jax.core.config import lookup
from lm_jax.models import config as models
from lm_jax.models.presets.common import NOTHING, SCALED, Shape, one_stack

# arXiv:2302.13971, table 2 (width, heads, layers); feed-forward widths from the released weights (8/3 width, rounded
# up to a multiple of 256); 2-: arXiv:2307.09288, table 1 and the released configurations; 3-, 3.1-: arXiv:2407.21783,
# table 3; 3.2-: the released configurations.
SIZES = {
    "tiny": dict(depth=2, width=64, heads=4, kv_heads=2, mlp=172, length=128),
    "7b": dict(depth=32, width=4096, heads=32, kv_heads=32, mlp=11008, length=2048),
    "13b": dict(depth=40, width=5120, heads=40, kv_heads=40, mlp=13824, length=2048),
    "33b": dict(depth=60, width=6656, heads=52, kv_heads=52, mlp=17920, length=2048),
    "65b": dict(depth=80, width=8192, heads=64, kv_heads=64, mlp=22016, length=2048),
    "2-7b": dict(depth=32, width=4096, heads=32, kv_heads=32, mlp=11008, length=4096),
    "2-13b": dict(depth=40, width=5120, heads=40, kv_heads=40, mlp=13824, length=4096),
    "2-70b": dict(depth=80, width=8192, heads=64, kv_heads=8, mlp=28672, length=4096),
    "3-8b": dict(depth=32, width=4096, heads=32, kv_heads=8, mlp=14336, length=8192, vocab=128256),
    "3-70b": dict(depth=80, width=8192, heads=64, kv_heads=8, mlp=28672, length=8192, vocab=128256),
    "3.1-8b": dict(depth=32, width=4096, heads=32, kv_heads=8, mlp=14336, length=131072, vocab=128256),
    "3.1-70b": dict(depth=80, width=8192, heads=64, kv_heads=8, mlp=28672, length=131072, vocab=128256),
    "3.1-405b": dict(depth=126, width=16384, heads=128, kv_heads=8, mlp=53248, length=131072, vocab=128256),
    "3.2-1b": dict(depth=16, width=2048, heads=32, kv_heads=8, mlp=8192, length=131072, vocab=128256),
    "3.2-3b": dict(depth=28, width=3072, heads=24, kv_heads=8, mlp=8192, length=131072, vocab=128256),
}
# Rotary scaling by version, the first part of a size's name.
SCALED_ROTARY = {
    version: models.ScalingConfig(name="llama3", factor=factor, length=8192, low=1.0, high=4.0)
    for version, factor in (("3.1", 8.0), ("3.2", 32.0))
}


def llama(size: str = "7b") -> ml_collections.ConfigDict:
    """Return LLaMA's configuration.

    Args:
      size: one of `SIZES`; the prefix 2- means LLaMA 2, and so on.

    Raises:
      InputError: unknown size.

    Example:
      >>> config = llama("3.1-8b")
      >>> config.stack.block.attention.heads, config.stack.block.attention.kv_heads
      (32, 8)
      >>> config.embed.max_length = 8192
      >>> config.stack.block.attention.rotary.theta
      500000.0
    """
    shape = lookup(SIZES, size, "the size of llama")
    version, dash, _ = size.partition("-")
    rotary = models.RotaryConfig()
    if version.startswith("3") and dash:
        rotary = models.RotaryConfig(theta=500_000.0, scaling=SCALED_ROTARY.get(version, models.ScalingConfig()))
    return gated(shape, epsilon=1e-5 if dash else 1e-6, rotary=rotary, tied=version == "3.2")


def gated(
    shape: Shape,
    *,
    rotary: models.RotaryConfig,
    epsilon: float,
    attention: Shape = NOTHING,
    feedforward: Shape = NOTHING,
    tied: bool = False,
    **options: Any,
) -> ml_collections.ConfigDict:
    """Return a decoder with LLaMA's defaults; `options` are other arguments of `one_stack`."""
    return one_stack(
        shape,
        attention={"bias": False, "out_bias": False, "position": "rotary", "rotary": rotary, **attention},
        feedforward={"activation": "silu", "gated": True, "bias": False, **feedforward},
        embed={"positions": "none", **options.pop("embed", {})},
        readout=options.pop("readout", models.ReadoutConfig(tied=tied)),
        **{"norm": models.NormConfig(name="rms", epsilon=epsilon), "init": SCALED, **options},
    )
