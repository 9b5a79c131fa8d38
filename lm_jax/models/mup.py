"""Maximal update parametrisation (Yang et al. 2022, arXiv:2203.03466): learning rates that transfer across widths.

Table 8, for Adam. `init.name="mup"` initialises hidden matrices with variance 1 / fan_in and all else independently of
the width, and multiplies logits by base_width / width and scores by 1 / head_dim. This module gives the factor on the
learning rate of hidden matrices, base_width / width. Tune at `base_width`, train at any width.
"""

from __future__ import annotations

from lm_jax.core.trees import Params
from lm_jax.models.axes import by_path, is_hidden
from lm_jax.models.config import ModelConfig


def multipliers(config: ModelConfig, axes: Params) -> dict[str, float]:
    """Learning rate factors of hidden matrices by path; empty unless `init.name` is mup."""
    if config.init.name != "mup":
        return {}
    factor = config.init.base_width / config.embed.width
    return {path: factor for path, names in by_path(axes).items() if is_hidden(names)}
