"""Bottleneck adapters: small networks with a residual connection inside frozen layers.

Houlsby et al. 2019 (arXiv:1902.00751): two in a layer, and the norms are trained too. Pfeiffer et al. 2021
(arXiv:2005.00247), section 3.1: one, behind the feed-forward layer; here in Houlsby's place, before the norm.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from lm_jax.adapt import adding, targets
from lm_jax.adapt.config import AdaptConfig
from lm_jax.adapt.partition import TASK
from lm_jax.models import adapted
from lm_jax.models.axes import Axes, by_path
from lm_jax.models.model import Model

# The branches of a layer that get an adapter, by method.
BRANCHES = {"houlsby": ("attention", "feedforward"), "pfeiffer": ("feedforward",)}
# Standard deviation of the first kernels, so that an adapter begins near the identity (Houlsby, section 3.6).
STDDEV = 1e-2


def adapters(config: AdaptConfig, model: Model) -> Model:
    """Adds adapters to every layer and trains only them, for `houlsby` with all norms."""
    width, shapes, axes = model.module.config.embed.width, dict[str, tuple[int, ...]](), dict[str, Axes]()
    norms = {path for path, names in by_path(model.axes).items() if "norm" in names and config.method == "houlsby"}
    for group, depth in targets.layers(model).items():
        for branch in BRANCHES[config.method]:
            at = f"{group}/adapter/{branch}"
            shapes |= {f"{at}/down/kernel": (depth, width, config.width), f"{at}/down/bias": (depth, config.width)}
            shapes |= {f"{at}/up/kernel": (depth, config.width, width), f"{at}/up/bias": (depth, width)}
            axes |= {f"{at}/down/kernel": ("layers", "embed", "rank"), f"{at}/down/bias": ("layers", "rank")}
            axes |= {f"{at}/up/kernel": ("layers", "rank", "embed"), f"{at}/up/bias": ("layers", "embed")}

    def draw(_: Mapping[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
        keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
        # Cut at two standard deviations, as in the paper.
        kernel = lambda path: STDDEV * jax.random.truncated_normal(keys[path], -2.0, 2.0, shapes[path], jnp.float32)
        return {path: kernel(path) if path.endswith("kernel") else jnp.zeros(shapes[path]) for path in shapes}

    trainable = lambda path: path.startswith(TASK) or "/adapter/" in path or path in norms
    return adding.with_parameters(model, axes, draw, fold=adapted.folded, trainable=trainable)
