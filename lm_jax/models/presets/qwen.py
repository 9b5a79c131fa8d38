"""Qwen2 (Yang et al. 2024, arXiv:2407.10671) and Qwen3 (Yang et al. 2025, arXiv:2505.09388).

LLaMA with biases on queries, keys and values (Qwen2) or normalised queries and keys (Qwen3); small models tie the
readout. The papers do not give the initialisation; N(0, 0.02) with scaled residual writes is GPT-2's.
"""

from __future__ import annotations

import ml_collections

from lm_jax.core.config import lookup
from lm_jax.models import config as models
from lm_jax.models.presets.common import Sizes
from lm_jax.models.presets.llama import gated

ROTARY = models.RotaryConfig(theta=1e6)

# Table 1; vocabularies, padded to different sizes, from the released configurations.
QWEN2: Sizes = {
    "tiny": dict(depth=2, width=64, heads=4, kv_heads=2, mlp=128, tied=True, length=128),
    "0.5b": dict(depth=24, width=896, heads=14, kv_heads=2, mlp=4864, tied=True, length=32768),
    "1.5b": dict(depth=28, width=1536, heads=12, kv_heads=2, mlp=8960, tied=True, length=32768),
    "7b": dict(depth=28, width=3584, heads=28, kv_heads=4, mlp=18944, length=32768, vocab=152064),
    "72b": dict(depth=80, width=8192, heads=64, kv_heads=8, mlp=29568, length=32768, vocab=152064),
}
# Table 1; feed-forward widths from the released configurations.
QWEN3: Sizes = {
    "tiny": dict(depth=2, width=64, heads=4, kv_heads=2, head_dim=32, mlp=128, tied=True, length=128),
    "0.6b": dict(depth=28, width=1024, heads=16, kv_heads=8, mlp=3072, tied=True, length=32768),
    "1.7b": dict(depth=28, width=2048, heads=16, kv_heads=8, mlp=6144, tied=True, length=32768),
    "4b": dict(depth=36, width=2560, heads=32, kv_heads=8, mlp=9728, tied=True, length=32768),
    "8b": dict(depth=36, width=4096, heads=32, kv_heads=8, mlp=12288, length=32768),
    "14b": dict(depth=40, width=5120, heads=40, kv_heads=8, mlp=17408, length=32768),
    "32b": dict(depth=64, width=5120, heads=64, kv_heads=8, mlp=25600, length=32768),
}


def qwen2(size: str = "0.5b") -> ml_collections.ConfigDict:
    """Return Qwen2's configuration in one of the `QWEN2` sizes."""
    shape = lookup(QWEN2, size, "the size of qwen2")
    return gated(shape, epsilon=1e-6, rotary=ROTARY, attention=dict(bias=True), tied=shape.get("tied", False))


def qwen3(size: str = "0.6b") -> ml_collections.ConfigDict:
    """Return the configuration of a dense Qwen3 model in one of the `QWEN3` sizes."""
    shape = {"head_dim": 128, **lookup(QWEN3, size, "the size of qwen3")}
    return gated(shape, epsilon=1e-6, rotary=ROTARY, attention=dict(qk_norm=True), tied=shape.get("tied", False))
