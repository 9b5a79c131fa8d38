"""Pretraining objectives: each file defines one objective, its corruption and its loss.

To add one, write a class like `causal.Causal`, list it in `OBJECTIVES`, and add its settings to `ObjectiveConfig`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from lm_jax.core.config import InputError, Tree, build_entries, lookup, setting
from lm_jax.objectives.answer import Answer, AnswerConfig
from lm_jax.objectives.base import Objective, Vocabulary
from lm_jax.objectives.causal import Causal, CausalConfig
from lm_jax.objectives.choice import Choice, ChoiceConfig
from lm_jax.objectives.classify import Classify, ClassifyConfig
from lm_jax.objectives.denoise import Denoise, DenoiseConfig
from lm_jax.objectives.embed import Embed, EmbedTaskConfig
from lm_jax.objectives.masked import Masked, MaskedConfig
from lm_jax.objectives.mixture import KEY, Mixture, MixtureConfig, common_roles, naming_part
from lm_jax.objectives.pattern import Pattern, PatternConfig
from lm_jax.objectives.permutation import Permutation, PermutationConfig
from lm_jax.objectives.prefix import Prefix, PrefixConfig
from lm_jax.objectives.replaced import Replaced, ReplacedConfig
from lm_jax.objectives.roles import Role
from lm_jax.objectives.seq2seq import Seq2Seq, Seq2SeqConfig
from lm_jax.objectives.span import Span, SpanConfig
from lm_jax.objectives.substituted import Substituted, SubstitutedConfig
from lm_jax.objectives.tag import Tag, TagConfig

OBJECTIVES = {
    "answer": Answer,
    "causal": Causal,
    "choice": Choice,
    "classify": Classify,
    "denoise": Denoise,
    "embed": Embed,
    "masked": Masked,
    "mixture": Mixture,
    "pattern": Pattern,
    "permutation": Permutation,
    "prefix": Prefix,
    "replaced": Replaced,
    "seq2seq": Seq2Seq,
    "span": Span,
    "substituted": Substituted,
    "tag": Tag,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The name of the objective, and the settings of every objective; only the settings of `name` are read.

    `weight` is for a part of a mixture: its share of the rows, relative to the sum of all weights.
    """

    name: str = "causal"
    weight: float = setting(1.0, above=0, below=1e9)
    answer: AnswerConfig = AnswerConfig()
    causal: CausalConfig = CausalConfig()
    choice: ChoiceConfig = ChoiceConfig()
    classify: ClassifyConfig = ClassifyConfig()
    denoise: DenoiseConfig = DenoiseConfig()
    embed: EmbedTaskConfig = EmbedTaskConfig()
    masked: MaskedConfig = MaskedConfig()
    mixture: MixtureConfig = MixtureConfig()
    pattern: PatternConfig = PatternConfig()
    permutation: PermutationConfig = PermutationConfig()
    prefix: PrefixConfig = PrefixConfig()
    seq2seq: Seq2SeqConfig = Seq2SeqConfig()
    span: SpanConfig = SpanConfig()
    replaced: ReplacedConfig = ReplacedConfig()
    substituted: SubstitutedConfig = SubstitutedConfig()
    tag: TagConfig = TagConfig()

    def __post_init__(self):
        self.parts()

    def parts(self) -> dict[str, ObjectiveConfig]:
        """The parts of a mixture by name, in alphabetical order."""
        parts: dict[str, ObjectiveConfig] = {}
        for name in sorted(self.mixture.parts):
            with naming_part(name):
                parts |= build_entries(ObjectiveConfig, Tree({name: self.mixture.parts[name]}), KEY)
            if parts[name].name == "mixture":
                raise InputError(f"{KEY}.{name}.name is 'mixture', but a part cannot be a mixture; list its parts here")
        return parts


def roles(config: ObjectiveConfig) -> Mapping[str, Role]:
    """The roles of an objective, from its class and settings, so that models can be loaded without building it."""
    cls = lookup(OBJECTIVES, config.name, "config.objective.name")
    if cls is Mixture:
        return common_roles({name: roles(part) for name, part in config.parts().items()})
    return cls.roles_of(getattr(config, config.name, None))


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
    if config.weight != 1:
        raise InputError(
            f"config.objective.weight is {config.weight}, but only the parts of a mixture have weights; leave it out"
        )
    cls = lookup(OBJECTIVES, config.name, "config.objective.name")
    if cls is not Mixture:
        return cls(getattr(config, config.name, None), vocabulary, length, kind)
    parts = {}
    for name, part in config.parts().items():
        with naming_part(name):
            parts[name] = build_objective(dataclasses.replace(part, weight=1.0), vocabulary, length, kind)
    shares = {name: part.weight for name, part in config.parts().items()}
    return Mixture(parts, shares, vocabulary.pad)
