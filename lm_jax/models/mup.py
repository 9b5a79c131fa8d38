"""Maximal update parametrisation (Yang et al. 2022, arXiv:2203.03466): learning rates that hold at every width.

Table 8, for Adam. `init.name="mup"` draws hidden matrices with variance 1 / fan_in and everything else independently of
the width, multiplies logits by base_width / width and scores by 1 / head_dim; what is left is the learning rate of
hidden matrices, base_width / width, which the optimizer takes from here. Tune at `base_width`, train at any.
"""

from __future__ import annotations

from lm_jax.core.trees import Params
from lm_jax.models.axes import by_path, is_hidden
from lm_jax.models.config import ModelConfig


def multipliers(config: ModelConfig, axes: Params) -> dict[str, float]:
    """Factors on the learning rate of hidden matrices by path; none unless `init.name` is mup.

    Args:
      config: the model.
      axes: a tuple of logical axes for every parameter that the optimizer gets.
    """
    if config.init.name != "mup":
        return {}
    factor = config.init.base_width / config.embed.width
    # Tables, biases, norms and readouts keep the learning rate.
    return {path: factor for path, names in by_path(axes).items() if is_hidden(names)}
