"""Replaced token detection: ELECTRA (Clark et al. 2020, arXiv:2003.10555, section 2).

A small generator fills masked positions with samples from its softmax, and the discriminator detects which tokens were
replaced. Both are trained at once; no gradient passes through the samples. `Replacing` is the half that MC-BERT
(`substituted.py`) shares: the rows, the generator and its loss.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lm_jax.core.config import InputError, Tree, lookup, setting
from lm_jax.core.sums import Sum, Sums
from lm_jax.data.rows import Reads
from lm_jax.models.heads import gather
from lm_jax.models.interface import Inputs, Output
from lm_jax.models.model import Bound
from lm_jax.objectives import sampling
from lm_jax.objectives.base import (
    Batch,
    Field,
    Loss,
    Objective,
    Part,
    Vocabulary,
    Work,
    balanced,
    per_weight,
    row_keys,
    weighted,
)
from lm_jax.objectives.cross_entropy import binary_cross_entropy, sampled_token_loss
from lm_jax.objectives.masked import Masked, MaskedConfig
from lm_jax.objectives.roles import Role

# Paths of the parameters that the generator shares. The released code shares the embeddings with their norm, before
# their projection to the model's width (section 3.2 of the paper: "token and positional embeddings").
SHARES = {
    "all": ("token", "embed/position", "embed/types", "embed/norm"),
    "token": ("token",),
    "none": (),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplacedConfig:
    """Settings of the generator's input and of the losses.

    Attributes:
      rate: share of the tokens to mask and resample; 0.15, for the large model 0.25 (table 6).
      mask, random: shares of these tokens that the generator reads as the mask and as a random token; the rest is
        unchanged. The paper masks all of them, its released code 0.85.
      share: parameters that the generator shares with the discriminator: "all" embeddings, the "token" table or "none".
      weight: factor on the discriminator's loss; the generator's has 1.
    """

    rate: float = 0.15
    mask: float = 1.0
    random: float = 0.0
    share: str = "all"
    weight: float = setting(50.0, at_least=0)

    def __post_init__(self):
        check_settings(self, "config.objective.replaced")


def check_settings(config: Any, key: str) -> None:
    """Raises InputError if a share of the settings `config`, which `key` names, is impossible."""
    lookup(SHARES, config.share, f"{key}.share")
    if not 0 < config.rate < 1:
        raise InputError(f"{key}.rate is {config.rate}; expected a share between 0 and 1")
    if config.mask < 0 or config.random < 0 or config.mask + config.random > 1:
        raise InputError(f"{key}.mask {config.mask} and .random {config.random}; expected shares with sum <= 1")


@flax.struct.dataclass
class Generated:
    """A batch with the generator's replacements.

    Attributes:
      tokens: the corrupted tokens.
      originals: the tokens of the text.
      replaced: where the two differ; a sample that equals the original is not a replacement.
      real: 1 at tokens, 0 at padding.
      output: the generator's output.
      metrics: `generator_loss`, `generator_accuracy` and `replaced_share`.
    """

    tokens: Int[Array, "batch length"]
    originals: Int[Array, "batch length"]
    replaced: Bool[Array, "batch length"]
    real: Float[Array, "batch length"]
    output: Output
    metrics: Sums

    @property
    def loss(self) -> Sum:
        """The generator's masked-LM loss."""
        return self.metrics["generator_loss"]


class Replacing(Objective):
    """Rows [CLS] text [SEP] without sentence pairs, whose chosen tokens a generator replaces."""

    name = "replaced"  # In messages.
    config: Any
    vocabulary: Vocabulary
    length: int

    @functools.cached_property
    def masked(self) -> Masked:
        """The objective of the generator."""
        self.vocabulary.require(self.name, "cls", "sep", "mask")
        config = self.config
        settings = MaskedConfig(rate=config.rate, mask=config.mask, random=config.random, next_sentence=False)
        return Masked(settings, self.vocabulary, self.length)

    @property
    def reads(self) -> Reads:
        """Packed text, shorter than `length` by the special tokens of a row."""
        return self.masked.reads

    @functools.cached_property
    def spec(self) -> Mapping[str, Field]:
        """Fields of the features."""
        return {name: field for name, field in self.masked.spec.items() if name != "types"}

    def features(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`tokens` (masked) and `segments` of `length`; `positions`, `labels` and `weights` of the chosen tokens."""
        features = self.masked.features(row, rng)
        return {name: features[name] for name in self.spec}

    def inputs(self, batch: Batch) -> Inputs:
        """The generator's inputs; `segments` are 0 at padding."""
        return Inputs(tokens=batch["tokens"], segments=batch["segments"])

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """The numbers of masked tokens and of all tokens."""
        return {"masked": batch["weights"].sum(), "read": (batch["segments"] > 0).astype(jnp.float32).sum()}

    def generate(self, generator: Bound, batch: Batch, dropout: jax.Array | None) -> Generated:
        """Computes the generator's loss and samples replacements with the keys of the rows."""
        tokens, at, weights = batch["tokens"], batch["positions"], batch["weights"]
        output = generator(self.inputs(batch), dropout=dropout)
        uniforms = sampling.uniforms(row_keys(batch), at.shape[1])
        hidden = gather(output.hidden, at)
        loss, correct, samples = sampled_token_loss(generator, hidden, batch["labels"], weights, uniforms)
        rows, masked = jnp.arange(len(tokens))[:, None], jnp.take_along_axis(tokens, at, 1)
        # Entries without weight keep the token at their position.
        place = lambda values: tokens.at[rows, at].set(jnp.where(weights > 0, values, masked))
        originals, corrupted = place(batch["labels"]), place(samples)
        replaced, real = corrupted != originals, (batch["segments"] > 0).astype(jnp.float32)
        share = weighted(replaced.astype(jnp.float32), real)
        metrics = {"generator_loss": loss, "generator_accuracy": correct, "replaced_share": share}
        return Generated(corrupted, originals, replaced, real, output, metrics)

    def total(self, part: Part, generator: Sum, other: Sum) -> Float[Array, ""]:
        """The generator's mean loss over masked tokens plus the weighted mean of the `other` loss over all tokens."""
        masked = per_weight(generator.total, part.weights["masked"])
        return masked + self.config.weight * per_weight(other.total, part.weights["read"])


@dataclasses.dataclass(frozen=True)
class Replaced(Replacing):
    """ELECTRA: the discriminator predicts for every token, special ones too, whether it was replaced.

    Example:
      >>> vocabulary = Vocabulary(size=100, pad=0, eos=1, cls=2, sep=3, mask=4, ordinary=(5, 100))
      >>> replaced = Replaced(ReplacedConfig(), vocabulary, length=8)
      >>> row = replaced.features({"tokens": np.arange(20, 26)}, np.random.default_rng(2))
      >>> print(row["tokens"], row["positions"], row["labels"])
      [ 2 20 21 22  4 24 25  3] [4 0] [23  0]
      >>> replaced.roles["generator"].shares["embed/position"]
      'discriminator'
    """

    config: ReplacedConfig
    vocabulary: Vocabulary
    length: int
    kind: str = "encoder"

    terms = ("generator_loss", "weighted_discriminator_loss")

    def __post_init__(self):
        _ = self.masked

    @classmethod
    def roles_of(cls, config: ReplacedConfig) -> Mapping[str, Role]:
        """A generator, and the discriminator, which owns the shared embeddings."""
        shares = dict.fromkeys(SHARES[config.share], "discriminator")
        return {
            "generator": Role(kinds=("encoder",), shares=shares),
            "discriminator": Role(kinds=("encoder",), product=True),
        }

    @property
    def roles(self) -> Mapping[str, Role]:
        """Roles of the models under these settings."""
        return self.roles_of(self.config)

    @property
    def work(self) -> tuple[Work, ...]:
        """Both models read the row; the generator scores the masked positions, the discriminator judges all."""
        return (
            Work(role="generator", length=self.length, scored=self.masked.predictions),
            Work(role="discriminator", length=self.length, scored=0, heads=Tree(detect=self.length)),
        )

    def loss(self, models: Mapping[str, Bound], part: Part) -> Loss:
        """The generator's loss plus `weight` times the discriminator's, each a mean over its tokens."""
        first, second = split_key(part.key)
        generated = self.generate(models["generator"], part.batch, first)
        inputs = Inputs(tokens=generated.tokens, segments=part.batch["segments"])
        output = models["discriminator"](inputs, dropout=second)
        log_odds = models["discriminator"].head("detect", output.hidden)
        metrics = detection(log_odds, generated.replaced, generated.real)
        loss = metrics["discriminator_loss"]
        metrics["weighted_discriminator_loss"] = Sum(total=self.config.weight * loss.total, weight=loss.weight)
        total = self.total(part, generated.loss, loss)
        return balanced(total, {**generated.metrics, **metrics}, generated.output, output)


def detection(
    log_odds: Float[Array, "batch length"], replaced: Bool[Array, "batch length"], real: Float[Array, "batch length"]
) -> Sums:
    """Metrics of replaced token detection over the tokens with `real` 1.

    Args:
      log_odds: of each token having been replaced.
      replaced: whether each token was replaced.
      real: 1 at tokens, 0 at padding.

    Returns:
      Sums: `discriminator_loss`, the binary cross-entropy; accuracy; precision and recall of the replaced tokens.
    """
    labels, predicted = replaced.astype(jnp.float32), (log_odds > 0).astype(jnp.float32)
    return {
        "discriminator_loss": weighted(binary_cross_entropy(log_odds, labels), real),
        "discriminator_accuracy": weighted((predicted == labels).astype(jnp.float32), real),
        "discriminator_precision": weighted(labels, predicted * real),
        "discriminator_recall": weighted(predicted, labels * real),
    }


def split_key(key: jax.Array | None) -> tuple[jax.Array | None, jax.Array | None]:
    """A key of dropout for each of two models; None for both in evaluation."""
    if key is None:
        return None, None
    first, second = jax.random.split(key)
    return first, second
