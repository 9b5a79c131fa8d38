"""Soft prompts and prefixes: the model is frozen, and learned tokens before every text are trained.

Prompt tuning: Lester et al. 2021 (arXiv:2104.08691); the rows begin as those of drawn tokens (section 3.2). Prefix
tuning: Li and Liang 2021 (arXiv:2101.00190), section 4; here without the network that computes the prefix, and it
begins near zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from lm_jax.adapt import adding, targets
from lm_jax.adapt.config import AdaptConfig
from lm_jax.adapt.partition import TASK
from lm_jax.core.config import InputError
from lm_jax.models import prompts
from lm_jax.models.axes import Axes, by_path
from lm_jax.models.config import TransformerConfig
from lm_jax.models.model import Model

TABLE = "token/embedding"
# Standard deviation of the first keys and values.
STDDEV = 0.02


def prompt(config: AdaptConfig, model: Model) -> Model:
    """Adds a soft prompt and trains only it.

    Raises:
      InputError: the model has a memory, or the mask `prefix`, with which a cached prompt would not read the text.
    """
    blocks = [block for stack in targets.stacks(model).values() for block in stack.blocks]
    if isinstance(model.module.config, TransformerConfig) and model.module.config.memory.length:
        raise InputError("config.adapt.method is 'prompt', but the model has a memory of earlier texts; use 'prefix'")
    if any(block.attention.mask == "prefix" for block in blocks):
        raise InputError(
            "config.adapt.method is 'prompt', but the model has the mask 'prefix'; use the method 'prefix'"
        )
    at = f"{prompts.PROMPT}/embedding"
    scale = targets.shapes(model)[TABLE][1] ** 0.5 if model.module.config.embed.scale else 1.0

    def draw(plain: Mapping[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
        table = plain[TABLE]
        rows = jax.random.randint(key, (config.tokens,), 0, table.shape[0])
        return {at: scale * jnp.take(table, rows, axis=0)}

    trainable = lambda path: path.startswith(TASK) or path == at
    axes: dict[str, Axes] = {at: ("prompt", by_path(model.axes)[TABLE][1])}
    return adding.with_parameters(model, axes, draw, fold=lambda params: params, trainable=trainable)


def prefix(config: AdaptConfig, model: Model) -> Model:
    """Adds keys and values to the self-attention of every layer and trains only them.

    Raises:
      InputError: the model's layers have no attention.
    """
    axes, shapes, kernels = dict[str, Axes](), dict[str, tuple[int, ...]](), targets.shapes(model)
    for path, names in by_path(model.axes).items():
        if path.endswith("layers/attention/key/kernel"):
            depth, _, *sizes = kernels[path]
            module = path.removesuffix("/key/kernel")
            for name in ("key", "value"):
                axes[f"{module}/{prompts.PREFIX}/{name}"] = ("layers", "prompt", *names[2:])
                shapes[f"{module}/{prompts.PREFIX}/{name}"] = (depth, config.tokens, *sizes)
    if not axes:
        raise InputError("config.adapt.method is 'prefix', but the model has no attention; choose another method")

    def draw(_: Mapping[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
        keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
        return {path: STDDEV * jax.random.normal(keys[path], shape) for path, shape in shapes.items()}

    trainable = lambda path: path.startswith(TASK) or path in axes
    return adding.with_parameters(model, axes, draw, fold=lambda params: params, trainable=trainable)
