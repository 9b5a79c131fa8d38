"""Maximal update parametrisation (Yang et al. 2022, arXiv:2203.03466): learning rates that hold at every width.

Table 8, for Adam. `init.name="mup"` draws hidden matrices with variance 1 / fan_in and everything else independently of
the width, multiplies logits by base_width / width and scores by 1 / head_dim; what is left is the learning rate of
hidden matrices, base_width / width, which the optimizer takes from here. Tune at `base_width`, train at any.
"""

from __future__ import annotations

from lm_jax.models.config import ModelConfig

# Matrices whose both sides grow with the model. Tables, biases, norms and readouts keep the learning rate.
HIDDEN = (r"layers/.*kernel$", r"(^|/)(head/transform|pair/pooler)/kernel$")


def multipliers(config: ModelConfig) -> dict[str, float]:
    """Factors on the learning rate by pattern of the parameter's path; none unless `init.name` is mup."""
    if config.init.name != "mup":
        return {}
    return dict.fromkeys(HIDDEN, config.init.base_width / config.embed.width)
