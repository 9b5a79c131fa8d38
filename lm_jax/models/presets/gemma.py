"""Gemma (arXiv:2403.08295), Gemma 2 (arXiv:2408.00118) and the text part of Gemma 3 (arXiv:2503.19786).

LLaMA with GeGLU, scaled and tied embeddings, norms that scale by 1 + their weight, and wide heads. Gemma 2
and 3 have norms before and after each branch and alternate local with global layers; Gemma 2 caps scores and logits
softly, Gemma 3 normalises queries and keys.
The papers do not give the initialisation; N(0, 0.02) with scaled residual writes is GPT-2's.
"""

from __future__ import annotations

from typing import Any

import ml_collections

from lm_jax.core.config import Tree, lookup
from lm_jax.models import config as models
from lm_jax.models.presets.common import Shape, Sizes
from lm_jax.models.presets.llama import gated

# Table 1 of arXiv:2403.08295 (its feed-forward dims count the gate and the input projection).
GEMMA = {
    "tiny": dict(depth=2, width=64, heads=4, kv_heads=1, head_dim=32, mlp=128, length=128),
    "2b": dict(depth=18, width=2048, heads=8, kv_heads=1, mlp=16384, length=8192),
    "7b": dict(depth=28, width=3072, heads=16, kv_heads=16, mlp=24576, length=8192),
}
# Table 1 of arXiv:2408.00118 (likewise); scores are divided by the square root of `scaled_by`.
GEMMA2 = {
    "tiny": dict(depth=2, width=64, heads=4, kv_heads=2, head_dim=32, mlp=128, window=16, length=128, scaled_by=32),
    "2b": dict(depth=26, width=2304, heads=8, kv_heads=4, mlp=9216, length=8192, scaled_by=256),
    "9b": dict(depth=42, width=3584, heads=16, kv_heads=8, mlp=14336, length=8192, scaled_by=256),
    "27b": dict(depth=46, width=4608, heads=32, kv_heads=16, head_dim=128, mlp=36864, length=8192, scaled_by=144),
}
# Section 2 and table 1 of arXiv:2503.19786, the rest from the released configurations. Models that read images have a
# larger token table; `scaling` is the factor of rotary angles for their longer inputs.
GEMMA3: Sizes = {
    "tiny": dict(depth=6, width=64, heads=4, kv_heads=1, head_dim=32, mlp=128, window=16, length=128, scaled_by=32),
    "1b": dict(depth=26, width=1152, heads=4, kv_heads=1, mlp=6912, window=512, length=32768, vocab=262144),
    "4b": dict(depth=34, width=2560, heads=8, kv_heads=4, mlp=10240, length=131072, scaling=8.0),
    "12b": dict(depth=48, width=3840, heads=16, kv_heads=8, mlp=15360, length=131072, scaling=8.0),
    "27b": dict(
        depth=62, width=5376, heads=32, kv_heads=16, head_dim=128, mlp=21504, length=131072, scaling=8.0, scaled_by=168
    ),
}


def gemma(size: str = "2b") -> ml_collections.ConfigDict:
    """Return Gemma's configuration in one of the `GEMMA` sizes."""
    return _decoder(lookup(GEMMA, size, "the size of gemma"))


def gemma2(size: str = "2b") -> ml_collections.ConfigDict:
    """Return Gemma 2's configuration in one of the `GEMMA2` sizes; the first and every other layer is local."""
    shape = {"window": 4096, **lookup(GEMMA2, size, "the size of gemma2")}
    local = Tree(attention=Tree(window=shape["window"]))
    return _decoder(
        shape,
        placement="sandwich",
        attention=dict(scale=shape["scaled_by"] ** -0.5, softcap=50.0),
        stack=dict(kinds=Tree(local=local), pattern=("local", "block")),
        readout=models.ReadoutConfig(softcap=30.0),
    )


def gemma3(size: str = "1b") -> ml_collections.ConfigDict:
    """Return Gemma 3's configuration by size; every sixth layer is global, with slower rotary angles."""
    shape = {"window": 1024, "scaled_by": 256, **lookup(GEMMA3, size, "the size of gemma3")}
    scaling = models.ScalingConfig(name="linear", factor=shape["scaling"]) if "scaling" in shape else None
    global_rotary = models.RotaryConfig(theta=1e6, scaling=scaling or models.ScalingConfig())
    local_rotary = Tree(theta=1e4, scaling=Tree(name="none", factor=1.0))
    local = Tree(attention=Tree(window=shape["window"], rotary=local_rotary))
    return _decoder(
        shape,
        rotary=global_rotary,
        placement="sandwich",
        attention=dict(scale=shape["scaled_by"] ** -0.5, qk_norm=True),
        stack=dict(kinds=Tree(local=local), pattern=("local",) * 5 + ("block",)),
    )


def _decoder(shape: Shape, **options: Any) -> ml_collections.ConfigDict:
    return gated(
        {"head_dim": 256, **shape},
        epsilon=1e-6,
        norm=models.NormConfig(name="rms", epsilon=1e-6, offset=True),
        feedforward=dict(activation="gelu_tanh"),
        embed=dict(scale=True),
        tied=True,
        **{"rotary": models.RotaryConfig(), **options},
    )
