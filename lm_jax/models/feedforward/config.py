"""What the position-wise half of a layer is made of, as frozen dataclasses."""

from __future__ import annotations

import dataclasses

from lm_jax.core.config import InputError, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """Feed-forward layers side by side, of which every token takes `top` (Jiang et al. 2024, arXiv:2401.04088).

    Attributes:
      count: how many there are; 0 is one layer for all tokens.
      top: how many of them a token takes, weighted by the router's probabilities.
      balance: coefficient of the loss of an uneven use (Fedus et al. 2022, arXiv:2101.03961, eq. 4; Mixtral's
        `router_aux_loss_coef`); 0 is no such loss.
    """

    count: int = setting(0, at_least=0)
    top: int = 2
    balance: float = setting(0.0, at_least=0)

    def __post_init__(self):
        if self.count and not 0 < self.top <= self.count:
            raise InputError(
                f"feedforward.experts.top is {self.top}; expected 1 to {self.count}, the experts there are"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeedForwardConfig:
    """Position-wise layers; `gated` adds a second projection (Shazeer 2020), `width` None is 4 x embed.width.

    Attributes:
      convolution: their input mixes with the `convolution` - 1 tokens before, each feature with itself (as the token
        shift of RWKV, Peng et al. 2023, arXiv:2305.13048, section 3.1, but learned freely); 1 is none. Decoders only.
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
            raise InputError("feedforward.bias is True, but experts have none; use feedforward.bias=False")
