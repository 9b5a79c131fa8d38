"""ModernBERT (Warner et al. 2024, arXiv:2412.13663): a pre-norm encoder with local and global layers.

Every third layer is global, with slower rotary angles; the others see 64 tokens on each side. Feed-forward layers are
gated; only the readout has biases. Initialisation: N(0, 0.02) with scaled residual writes (section 2.2, "Megatron").
"""

from __future__ import annotations

import ml_collections

from lm_jax.core.config import Tree, lookup
from lm_jax.models import config as models
from lm_jax.models.presets.common import SCALED, one_stack

# The released configurations.
SIZES = {
    "tiny": dict(depth=5, width=64, heads=2, mlp=96, window=8, length=128),
    "base": dict(depth=22, width=768, heads=12, mlp=1152, window=64, length=8192),
    "large": dict(depth=28, width=1024, heads=16, mlp=2624, window=64, length=8192),
}


# The head of tasks, on all tokens too, has the layers of the masked-LM head; the released models average the tokens.
TASK = models.TaskHeadConfig(
    pool="mean", tokens=True, dense=True, dense_bias=False, activation="gelu", norm=True, norm_bias=False
)


def modernbert(size: str = "base") -> ml_collections.ConfigDict:
    """Return ModernBERT's configuration in one of the `SIZES`."""
    shape = lookup(SIZES, size, "the size of modernbert")
    local = Tree(window=shape["window"], rotary=Tree(theta=10_000.0))
    # The embeddings are normalised already, so the first layer has no attention norm.
    kinds = Tree(first=Tree(attention_norm=False), local=Tree(attention=local))
    pattern = ("first", *("local" if at % 3 else "block" for at in range(1, shape["depth"])))
    global_rotary = models.RotaryConfig(theta=160_000.0)
    return one_stack(
        shape,
        kind="encoder",
        norm=models.NormConfig(epsilon=1e-5, bias=False),
        attention=dict(bias=False, out_bias=False, position="rotary", rotary=global_rotary),
        feedforward=dict(activation="gelu", gated=True, bias=False),
        embed=dict(positions="none", norm=True),
        stack=dict(kinds=kinds, pattern=pattern),
        readout=models.ReadoutConfig(bias=True, transform="gelu", transform_bias=False),
        task=TASK,
        init=SCALED,
    )
