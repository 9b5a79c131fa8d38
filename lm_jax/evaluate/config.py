"""Settings of evaluation during training."""

from __future__ import annotations

import dataclasses

from lm_jax.core.config import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """When, and on how many batches, a model is evaluated during training, and what follows.

    Attributes:
      every: steps between evaluations; 0 evaluates at the end only.
      per_epoch: evaluations per pass over the training rows, at equal distances; 0: `every` decides.
      batches: the largest number of batches to evaluate on; 0: the whole validation split.
      best: the metric that decides which checkpoint is the best; empty: `loss`. Losses, `perplexity`, `bits_per_byte`
        and names that end in `mse` or `mae` should be low, all others high.
      patience: stop after this many evaluations without a better value of `best`; 0: never.
    """

    every: int = setting(500, at_least=0)
    per_epoch: int = setting(0, at_least=0)
    batches: int = setting(0, at_least=0)
    best: str = ""
    patience: int = setting(0, at_least=0)
