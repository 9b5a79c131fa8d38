"""When a run is evaluated."""

from __future__ import annotations

import dataclasses

from lm_jax.core.config import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """When the model is evaluated during training.

    Attributes:
      every: steps between evaluations; 0 evaluates at the end only.
      batches: at most so many batches; 0 is the whole validation part.
    """

    every: int = setting(500, at_least=0)
    batches: int = setting(0, at_least=0)
