"""Low-rank adaptation (LoRA): the change of a frozen matrix is a trained product of two small ones.

Hu et al. 2022 (arXiv:2106.09685), section 4.1; rsLoRA: Kalajdzievski 2023 (arXiv:2312.03732), whose scale keeps the
size of updates at any rank; DoRA: Liu et al. 2024 (arXiv:2402.09353), which also trains the norm of every column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from lm_jax.adapt import adding, targets
from lm_jax.adapt.config import AdaptConfig
from lm_jax.adapt.partition import TASK
from lm_jax.models import adapted
from lm_jax.models.axes import Axes, sides, split_shape
from lm_jax.models.model import Model

# The paper's choice in transformers (section 4.2).
TARGETS = ("query", "value")
TRAINED = ("/lora/down", "/lora/up", "/lora/magnitude")


def lora(config: AdaptConfig, model: Model) -> Model:
    """Adds low-rank products to the targets and trains only them; a product begins as zero."""
    chosen = targets.select(model, config.targets or TARGETS)
    targets.check(chosen, [each.target for each in config.ranks], "config.adapt.ranks")
    axes: dict[str, Axes] = {}
    for path, names in chosen.items():
        lead, inputs, outputs = sides(names)
        axes[_at(path, "down")] = (*lead, *inputs, "rank")
        axes[_at(path, "up")] = (*lead, "rank", *outputs)
        axes[_at(path, "scale")] = lead
        if config.method == "dora":
            axes[_at(path, "magnitude")] = (*lead, *outputs)

    def draw(kernels: Mapping[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
        added = {}
        for number, (path, names) in enumerate(chosen.items()):
            lead, sizes_in, sizes_out = split_shape(names, kernels[path].shape)
            rank, scale = _rank(config, path, names)
            # As torch draws the kernel of a dense layer.
            bound = math.prod(sizes_in) ** -0.5
            shape, own = (*lead, *sizes_in, rank), jax.random.fold_in(key, number)
            added[_at(path, "down")] = jax.random.uniform(own, shape, jnp.float32, -bound, bound)
            added[_at(path, "up")] = jnp.zeros((*lead, rank, *sizes_out), jnp.float32)
            added[_at(path, "scale")] = jnp.full(lead, scale, jnp.float32)
            if config.method == "dora":
                over = tuple(range(len(lead), len(lead) + len(sizes_in)))
                added[_at(path, "magnitude")] = jnp.sqrt(jnp.square(kernels[path]).sum(over))
        return added

    trainable = lambda path: path.startswith(TASK) or path.endswith(TRAINED)
    return adding.with_parameters(model, axes, draw, fold=adapted.folded, trainable=trainable)


def _at(path: str, name: str) -> str:
    return f"{path.rpartition('/')[0]}/lora/{name}"


def _rank(config: AdaptConfig, path: str, names: Axes) -> tuple[int, float]:
    """The rank of a target, and the scale of its product."""
    rank, alpha = config.rank, config.alpha
    for each in config.ranks:
        if targets.fits(each.target, path, names):
            rank, alpha = each.rank or rank, each.alpha or alpha
    return rank, alpha / (rank**0.5 if config.method == "rslora" else rank)
