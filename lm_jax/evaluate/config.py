"""Settings of evaluation during training."""

from __future__ import annotations

import dataclasses

from lm_jax.core.config import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How often, and on how many batches, a model is evaluated during training.

    Attributes:
      every: steps between evaluations; 0 evaluates at the end only.
      batches: the largest number of batches to evaluate on; 0: the whole validation split.
    """

    every: int = setting(500, at_least=0)
    batches: int = setting(0, at_least=0)
