"""Objectives whose model predicts the tokens of `targets` one after another (teacher forcing)."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Array, Float

from lm_jax.models.interface import Inputs
from lm_jax.models.model import Bound
from lm_jax.objectives.base import Batch, Loss, Objective, Part, balanced, per_weight
from lm_jax.objectives.cross_entropy import token_loss


class Written(Objective):
    """The mean negative log-likelihood of `targets`, by `weights` [batch length]."""

    terms = ("loss",)

    def inputs(self, batch: Batch) -> Inputs:
        """What the model reads of a batch."""
        ...

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """The number of targets."""
        return {"tokens": batch["weights"].sum()}

    def loss(self, models: Mapping[str, Bound], part: Part) -> Loss:
        """The mean over the whole batch."""
        model, batch = models["model"], part.batch
        output = model(self.inputs(batch), dropout=part.key)
        loss, _ = token_loss(model, output.hidden, batch["targets"], batch["weights"])
        return balanced(per_weight(loss.total, part.weights["tokens"]), {"loss": loss}, output)
