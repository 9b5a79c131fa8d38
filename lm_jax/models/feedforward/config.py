"""Settings of feed-forward layers as frozen dataclasses."""

from __future__ import annotations

import dataclasses

from lm_jax.core.config import InputError, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """A mixture of experts with top-k routing (Jiang et al. 2024, arXiv:2401.04088).

    Attributes:
      count: number of experts; 0: one dense layer for all tokens.
      top: number of experts per token, weighted by the router's probabilities.
      balance: coefficient of the load-balancing loss (Fedus et al. 2022, arXiv:2101.03961, eq. 4; Mixtral's
        `router_aux_loss_coef`); 0: no such loss.
    """

    count: int = setting(0, at_least=0)
    top: int = 2
    balance: float = setting(0.0, at_least=0)

    def __post_init__(self):
        if self.count and not 0 < self.top <= self.count:
            raise InputError(f"feedforward.experts.top is {self.top}; expected 1 to {self.count}, the expert count")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeedForwardConfig:
    """Feed-forward layers; `gated` adds a second projection (Shazeer 2020), `width` None: 4 x embed.width.

    Attributes:
      convolution: width of a causal depthwise convolution of the input (RWKV's token shift, Peng et al. 2023,
        arXiv:2305.13048, section 3.1, with unconstrained weights); 1: no convolution. Decoders only.
    """

    width: int | None = setting(None, at_least=1)
    activation: str = "gelu"
    gated: bool = False
    convolution: int = 1
    bias: bool = True
    dropout: float = setting(0.0, at_least=0, below=1)
    experts: ExpertsConfig = ExpertsConfig()

    def __post_init__(self):
        if self.experts.count and self.bias:
            raise InputError("feedforward.bias is True, but experts have no biases; use feedforward.bias=False")
