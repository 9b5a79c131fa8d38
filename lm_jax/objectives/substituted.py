"""MC-BERT (Xu et al. 2020, arXiv:2006.05744): for each token, choose the original among candidates, or reject them all.

A small meta controller (here `generator`) is trained and sampled as ELECTRA's generator. At every token it also
proposes candidates. The model chooses the original if the token was replaced, and the reject option if it was not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm_jax.core.config import Tree, setting
from lm_jax.core.sums import Sum
from lm_jax.models.heads import is_largest
from lm_jax.models.interface import Inputs
from lm_jax.models.model import Bound
from lm_jax.objectives import sampling
from lm_jax.objectives.base import Loss, Part, Vocabulary, Work, balanced, row_keys, weighted
from lm_jax.objectives.cross_entropy import by_chunk, cross_entropy
from lm_jax.objectives.replaced import SHARES, Generated, Replacing, check_settings, split_key
from lm_jax.objectives.roles import Role
from lm_jax.parallel.products import sum_over_rows

# Folded into the keys of the rows, so that candidates do not depend on the replacements.
CANDIDATES = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubstitutedConfig:
    """Settings of the generator's input and of the losses.

    Attributes:
      rate, mask, random, weight: as in `ReplacedConfig`.
      share: as in `ReplacedConfig`. The released code shares the token table and the bias of the logits, which "token"
        does.
      candidates: options to choose from, with the reject option; 10 in the released code.
    """

    rate: float = 0.15
    mask: float = 1.0
    random: float = 0.0
    share: str = "token"
    weight: float = setting(50.0, at_least=0)
    candidates: int = setting(10, at_least=2)

    def __post_init__(self):
        check_settings(self, "config.objective.substituted")


@dataclasses.dataclass(frozen=True)
class Substituted(Replacing):
    """MC-BERT: cross-entropy over each token's candidates, whose logits are those of the masked-LM head.

    The reject option is the row of the mask token, which no text holds. The other candidates are different
    samples from the generator's softmax without the original, one of which a replaced token's original displaces.
    Logits do not depend on the order of the candidates, so it reveals nothing.

    Example:
      >>> vocabulary = Vocabulary(size=100, pad=0, eos=1, cls=2, sep=3, mask=4, ordinary=(5, 100))
      >>> substituted = Substituted(SubstitutedConfig(candidates=5), vocabulary, length=8)
      >>> substituted.roles["generator"].shares
      {'token': 'model', 'head/bias': 'model'}
    """

    config: SubstitutedConfig
    vocabulary: Vocabulary
    length: int
    kind: str = "encoder"

    name = "substituted"
    terms = ("generator_loss", "weighted_choice_loss")

    def __post_init__(self):
        _ = self.masked

    @classmethod
    def roles_of(cls, config: SubstitutedConfig) -> Mapping[str, Role]:
        """A generator, and the model, which owns the shared parameters."""
        shared = (*SHARES[config.share], "head/bias") if SHARES[config.share] else ()
        shares = {path: "model" for path in shared}
        return {"generator": Role(kinds=("encoder",), shares=shares), "model": Role(kinds=("encoder",), product=True)}

    @property
    def roles(self) -> Mapping[str, Role]:
        """Roles of the models under these settings."""
        return self.roles_of(self.config)

    @property
    def work(self) -> tuple[Work, ...]:
        """Both models read the row; the generator scores the masked positions, and all of them without a gradient."""
        # A readout without a gradient takes a third of the operations.
        scored = self.masked.predictions + round(self.length / 3)
        return (
            Work(role="generator", length=self.length, scored=scored),
            Work(
                role="model",
                length=self.length,
                scored=0,
                candidates=self.length * self.config.candidates,
                heads=Tree(head=self.length),
            ),
        )

    def loss(self, models: Mapping[str, Bound], part: Part) -> Loss:
        """The generator's loss plus `weight` times the mean loss of the choices."""
        first, second = split_key(part.key)
        generated = self.generate(models["generator"], part.batch, first)
        keys = jax.vmap(lambda key: jax.random.fold_in(key, CANDIDATES))(row_keys(part.batch))
        uniforms = sampling.uniforms(keys, self.length, self.config.candidates - 1)
        candidates = self.candidates(models["generator"], generated, uniforms)
        output = models["model"](Inputs(tokens=generated.tokens, segments=part.batch["segments"]), dropout=second)
        logits = models["model"].candidates(output.hidden, candidates)
        labels, real = generated.replaced.astype(jnp.int32), generated.real
        loss = weighted(cross_entropy(logits, labels), real)
        right, share = is_largest(logits, labels).astype(jnp.float32), generated.replaced.astype(jnp.float32)
        metrics = {
            "choice_loss": loss,
            "choice_accuracy": weighted(right, real),
            "choice_accuracy_replaced": weighted(right, real * share),
            "choice_accuracy_original": weighted(right, real * (1 - share)),
            "weighted_choice_loss": Sum(total=self.config.weight * loss.total, weight=loss.weight),
        }
        total = self.total(part, generated.loss, loss)
        return balanced(total, {**generated.metrics, **metrics}, generated.output, output)

    def candidates(
        self, generator: Bound, generated: Generated, uniforms: Float[Array, "batch length samples 2"]
    ) -> Int[Array, "batch length candidates"]:
        """The candidates of every token: the reject option first, then the original of a replaced token, then samples.

        `uniforms` are random numbers in [0, 1) for the samples.
        """
        (mask,) = self.vocabulary.require(self.name, "mask")

        def local(params: Any, *rows: jax.Array) -> tuple[tuple[()], jax.Array]:
            def draw(hidden: jax.Array, originals: jax.Array, uniforms: jax.Array) -> jax.Array:
                excluded = jnp.stack([originals, jnp.full_like(originals, mask)], 1)
                return sampling.sample_distinct(generator.readout(hidden, params), uniforms, excluded)

            return (), by_chunk(draw, *rows)

        rows = (generated.output.hidden, generated.originals, uniforms)
        arguments = jax.lax.stop_gradient((generator.readout_params, *rows))
        _, drawn = sum_over_rows(local, *arguments, keep=True)
        # The last sample of a replaced token makes room for the original.
        first = jnp.where(generated.replaced, generated.originals, drawn[..., -1])
        reject = jnp.full_like(first, mask)
        return jnp.concatenate([reject[..., None], first[..., None], drawn[..., :-1]], -1)
