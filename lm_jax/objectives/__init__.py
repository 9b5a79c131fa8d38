"""Pretraining objectives: each file defines one objective, its corruption and its loss.

To add one, write a class like `causal.Causal`, list it in `OBJECTIVES`, and add its settings to `ObjectiveConfig`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from lm_jax.core.config import lookup
from lm_jax.objectives.base import Objective, Vocabulary
from lm_jax.objectives.causal import Causal, CausalConfig
from lm_jax.objectives.masked import Masked, MaskedConfig
from lm_jax.objectives.roles import Role
from lm_jax.objectives.seq2seq import Seq2Seq, Seq2SeqConfig
from lm_jax.objectives.span import Span, SpanConfig

OBJECTIVES = {"causal": Causal, "masked": Masked, "seq2seq": Seq2Seq, "span": Span}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The name of the objective, and the settings of every objective; only the settings of `name` are read."""

    name: str = "causal"
    causal: CausalConfig = CausalConfig()
    masked: MaskedConfig = MaskedConfig()
    seq2seq: Seq2SeqConfig = Seq2SeqConfig()
    span: SpanConfig = SpanConfig()


def roles(config: ObjectiveConfig) -> Mapping[str, Role]:
    """The roles of an objective, read from its class, so that models can be loaded without building the objective."""
    return lookup(OBJECTIVES, config.name, "config.objective.name").roles


def build_objective(config: ObjectiveConfig, vocabulary: Vocabulary, length: int, kind: str) -> Objective:
    """Builds the objective that `config.name` names.

    Args:
      config: the name, and the settings of every objective.
      vocabulary: special ids of the tokenizer.
      length: tokens of a row.
      kind: kind of the product's model.

    Raises:
      InputError: unknown name, or the tokenizer lacks a special token that the objective needs.

    Example:
      >>> vocabulary = Vocabulary(size=12, pad=0, eos=1, cls=2, sep=3, mask=4, ordinary=(5, 12))
      >>> build_objective(ObjectiveConfig(name="masked"), vocabulary, length=128, kind="encoder").terms
      ('masked_lm_loss', 'next_sentence_loss')
    """
    cls = lookup(OBJECTIVES, config.name, "config.objective.name")
    return cls(getattr(config, config.name, None), vocabulary, length, kind)
