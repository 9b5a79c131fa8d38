"""(IA)3: trained factors on keys, values and the inner features of feed-forward networks.

Liu et al. 2022 (arXiv:2205.05638), section 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from lm_jax.adapt import adding, targets
from lm_jax.adapt.config import AdaptConfig
from lm_jax.adapt.partition import TASK
from lm_jax.models import adapted
from lm_jax.models.axes import Axes, sides, split_shape
from lm_jax.models.model import Model

TARGETS = ("key", "value", "feedforward/out")


def ia3(config: AdaptConfig, model: Model) -> Model:
    """Adds factors, which begin as one, and trains only them.

    A target in a feed-forward network has factors on its inputs, every other one on its outputs.
    """
    chosen = targets.select(model, config.targets or TARGETS)
    axes: dict[str, Axes] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    kernels = targets.shapes(model)
    for path, names in chosen.items():
        lead, inputs, outputs = sides(names)
        module, inner = path.rpartition("/")[0], "feedforward" in path.split("/")
        sizes, sizes_in, sizes_out = split_shape(names, kernels[path])
        at = f"{module}/ia3/{'inputs' if inner else 'outputs'}"
        axes[at] = (*lead, *(inputs if inner else outputs))
        shapes[at] = (*sizes, *(sizes_in if inner else sizes_out))

    def draw(_: Mapping[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
        return {at: jnp.ones(shape, jnp.float32) for at, shape in shapes.items()}

    trainable = lambda path: path.startswith(TASK) or "/ia3/" in path
    return adding.with_parameters(model, axes, draw, fold=adapted.folded, trainable=trainable)
