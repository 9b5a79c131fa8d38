"""Pretraining objectives: each is one file that owns its corruption and its loss.

Adding one: a file with a class like `causal.Causal`, a line in `OBJECTIVES`, and its settings in `ObjectiveConfig`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from lm_jax.core.config import lookup
from lm_jax.objectives.base import Objective, Vocabulary
from lm_jax.objectives.causal import Causal, CausalConfig
from lm_jax.objectives.masked import Masked, MaskedConfig
from lm_jax.objectives.roles import Role
from lm_jax.objectives.span import Span, SpanConfig

OBJECTIVES = {"causal": Causal, "masked": Masked, "span": Span}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Which objective, and the settings of each; only those of `name` are read."""

    name: str = "causal"
    causal: CausalConfig = CausalConfig()
    masked: MaskedConfig = MaskedConfig()
    span: SpanConfig = SpanConfig()


def roles(config: ObjectiveConfig) -> Mapping[str, Role]:
    """The roles of an objective, which its class knows: a model needs no objective to be read."""
    return lookup(OBJECTIVES, config.name, "config.objective.name").roles


def build_objective(config: ObjectiveConfig, vocabulary: Vocabulary, length: int) -> Objective:
    """The objective of a configuration, for rows of `length` tokens; one without settings gets None."""
    cls = lookup(OBJECTIVES, config.name, "config.objective.name")
    return cls(getattr(config, config.name, None), vocabulary, length)
