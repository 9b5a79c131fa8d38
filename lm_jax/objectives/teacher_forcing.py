"""Next-token prediction with teacher forcing: `targets` are predicted from the true tokens before them."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Array, Float

from lm_jax.models.interface import Inputs
from lm_jax.models.model import Bound
from lm_jax.objectives.base import Batch, Loss, Objective, Part, balanced, per_weight
from lm_jax.objectives.cross_entropy import token_loss


class TeacherForced(Objective):
    """Mean negative log-likelihood of `targets`, weighted by `weights`; both are [batch length]."""

    terms = ("loss",)

    def inputs(self, batch: Batch) -> Inputs:
        """The model's inputs for a batch of features."""
        ...

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """The number of targets."""
        return {"tokens": batch["weights"].sum()}

    def loss(self, models: Mapping[str, Bound], part: Part) -> Loss:
        """This part's share of the mean over the whole batch."""
        model, batch = models["model"], part.batch
        output = model(self.inputs(batch), dropout=part.key)
        loss, _ = token_loss(model, output.hidden, batch["targets"], batch["weights"])
        return balanced(per_weight(loss.total, part.weights["tokens"]), {"loss": loss}, output)
