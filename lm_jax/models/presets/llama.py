"""LLaMA (Touvron et al. 2023, arXiv:2302.13971) and LLaMA-2 (arXiv:2307.09288).

Pre-norm decoders with rotary positions, RMS norm, SwiGLU and no biases; the large ones of LLaMA-2 share keys and values
between groups of heads.

The papers do not give the initialisation; N(0, 0.02) with scaled residual writes is GPT-2's.
"""

from __future__ import annotations

import ml_collections

from lm_jax.core.config import lookup, to_config_dict
from lm_jax.models import config as models

# arXiv:2302.13971, table 2 (width, heads, layers); feed-forward widths from the released weights (8/3 width, rounded
# up to a multiple of 256); 2-70b: arXiv:2307.09288, table 1 and its released configuration.
SIZES = {
    "tiny": dict(depth=2, width=64, heads=4, kv_heads=2, mlp=172, length=128),
    "7b": dict(depth=32, width=4096, heads=32, kv_heads=32, mlp=11008, length=2048),
    "13b": dict(depth=40, width=5120, heads=40, kv_heads=40, mlp=13824, length=2048),
    "33b": dict(depth=60, width=6656, heads=52, kv_heads=52, mlp=17920, length=2048),
    "65b": dict(depth=80, width=8192, heads=64, kv_heads=64, mlp=22016, length=2048),
    "2-70b": dict(depth=80, width=8192, heads=64, kv_heads=8, mlp=28672, length=4096),
}


def llama(size: str = "7b") -> ml_collections.ConfigDict:
    """LLaMA of a size (sizes that start with 2- are LLaMA-2's)."""
    shape = lookup(SIZES, size, "the size of llama")
    norm = models.NormConfig(name="rms", epsilon=1e-5 if size.startswith("2-") else 1e-6)
    block = models.BlockConfig(
        attention=models.AttentionConfig(
            heads=shape["heads"],
            kv_heads=shape["kv_heads"],
            mask="causal",
            position="rotary",
            bias=False,
            out_bias=False,
        ),
        feedforward=models.FeedForwardConfig(width=shape["mlp"], activation="silu", gated=True, bias=False),
        norm=norm,
    )
    return to_config_dict(
        models.TransformerConfig(
            kind="decoder",
            embed=models.EmbedConfig(width=shape["width"], positions="none", max_length=shape["length"]),
            stack=models.StackConfig(depth=shape["depth"], block=block),
            norm=norm,
            readout=models.ReadoutConfig(tied=False),
            init=models.InitConfig(name="normal", stddev=0.02, scale_residual=True),
        )
    )
