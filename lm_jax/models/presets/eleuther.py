"""EleutherAI's decoders: GPT-Neo (Black et al. 2021), GPT-J (Wang and Komatsuzaki 2021), GPT-NeoX and Pythia.

GPT-Neo is GPT-3 with unscaled attention scores. GPT-J added rotary positions and parallel attention and feed-forward,
which GPT-NeoX (Black et al. 2022, arXiv:2204.06745) and Pythia (Biderman et al. 2023, arXiv:2304.01373) keep.

Initialisation: `small` for GPT-NeoX (its section 2), with GPT-2's rule for residual writes instead of the paper's
2 / (depth sqrt(width)); GPT-2's for GPT-Neo and GPT-J, because theirs are not published.
"""

from __future__ import annotations

import ml_collections

from lm_jax.core.config import Tree, lookup
from lm_jax.models import config as models
from lm_jax.models.presets.common import SCALED, Shape, one_stack

NORM = models.NormConfig()

# The released configurations.
NEO = {
    "tiny": dict(depth=2, width=64, heads=2, window=16, length=64),
    "125m": dict(depth=12, width=768, heads=12, window=256, length=2048),
    "1.3b": dict(depth=24, width=2048, heads=16, window=256, length=2048),
    "2.7b": dict(depth=32, width=2560, heads=20, window=256, length=2048),
}
# The released configuration; rotary positions on 64 of the 256 features of a head.
GPTJ = {"tiny": dict(depth=2, width=64, heads=2, length=64), "6b": dict(depth=28, width=4096, heads=16, length=2048)}
# Section 2.
NEOX = {"tiny": dict(depth=2, width=64, heads=2, length=64), "20b": dict(depth=44, width=6144, heads=64, length=2048)}
# Table 1; sizes are named as in the second release. Padding of the token tables depended on the hardware.
PYTHIA = {
    "tiny": dict(depth=2, width=64, heads=2, length=64),
    "70m": dict(depth=6, width=512, heads=8, length=2048),
    "160m": dict(depth=12, width=768, heads=12, length=2048),
    "410m": dict(depth=24, width=1024, heads=16, length=2048),
    "1b": dict(depth=16, width=2048, heads=8, length=2048),
    "1.4b": dict(depth=24, width=2048, heads=16, length=2048),
    "2.8b": dict(depth=32, width=2560, heads=32, length=2048),
    "6.9b": dict(depth=32, width=4096, heads=32, length=2048, vocab=50432),
    "12b": dict(depth=36, width=5120, heads=40, length=2048, vocab=50688),
}


def gpt_neo(size: str = "125m") -> ml_collections.ConfigDict:
    """Return GPT-Neo's configuration in one of the `NEO` sizes."""
    shape = lookup(NEO, size, "the size of gpt_neo")
    return one_stack(
        shape,
        norm=NORM,
        attention=dict(bias=False, scale=1.0),
        feedforward=dict(activation="gelu_tanh"),
        stack=dict(kinds=Tree(local=Tree(attention=Tree(window=shape["window"]))), pattern=("block", "local")),
        init=SCALED,
    )


def gptj(size: str = "6b") -> ml_collections.ConfigDict:
    """Return GPT-J's configuration in one of the `GPTJ` sizes."""
    rotary = models.RotaryConfig(fraction=0.25, interleaved=True)
    return one_stack(
        lookup(GPTJ, size, "the size of gptj"),
        norm=NORM,
        placement="parallel",
        attention=dict(bias=False, out_bias=False, position="rotary", rotary=rotary),
        feedforward=dict(activation="gelu_tanh"),
        embed=dict(positions="none"),
        readout=models.ReadoutConfig(tied=False, bias=True),
        init=SCALED,
    )


def gpt_neox(size: str = "20b") -> ml_collections.ConfigDict:
    """Return GPT-NeoX's configuration in one of the `NEOX` sizes."""
    return _neox(lookup(NEOX, size, "the size of gpt_neox"), "gelu_tanh")


def pythia(size: str = "160m") -> ml_collections.ConfigDict:
    """Return Pythia's configuration in one of the `PYTHIA` sizes."""
    return _neox(lookup(PYTHIA, size, "the size of pythia"), "gelu")


def _neox(shape: Shape, activation: str) -> ml_collections.ConfigDict:
    return one_stack(
        shape,
        norm=NORM,
        placement="parallel_two",
        attention=dict(position="rotary", rotary=models.RotaryConfig(fraction=0.25)),
        feedforward=dict(activation=activation),
        embed=dict(positions="none"),
        readout=models.ReadoutConfig(tied=False),
        init=models.InitConfig(name="small", scale_residual=True),
    )
