"""A model as an experiment holds it: the module, and the shapes and logical axes of its parameters."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.models import transformer
from lm_jax.models.config import ModelConfig
from lm_jax.models.interface import Inputs


@dataclasses.dataclass(frozen=True)
class Model:
    """A module with its shapes and axes.

    Attributes:
      module: the Linen module.
      shapes: its parameters as shapes.
      axes: logical axis names of every parameter.
    """

    module: Any
    shapes: Any
    axes: Any

    def apply(self, params: Any, *args: Any, **options: Any) -> Any:
        """`module.apply` on a plain tree of parameters."""
        return self.module.apply({"params": params}, *args, **options)


def build_model(config: ModelConfig, vocab: int) -> Model:
    """The model of a configuration with `vocab` tokens; no memory is taken."""
    module = transformer.build(dataclasses.replace(config, embed=dataclasses.replace(config.embed, vocab=vocab)))
    shapes, axes = describe(module)
    return Model(module=module, shapes=shapes, axes=axes)


def describe(module: Any) -> tuple[Any, Any]:
    """Shapes and logical axes of a module's parameters, by tracing how they are drawn."""
    boxed = jax.eval_shape(lambda: draw(module, 0))
    axes = jax.tree.map(lambda box: box.names, boxed, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))
    return nn.unbox(boxed), axes


def draw(module: Any, seed: int) -> Any:
    """Freshly drawn parameters, each boxed with the names of its axes."""
    tokens = jnp.zeros((1, 2), jnp.int32)
    source = Inputs(tokens=tokens) if module.config.kind == "encoder_decoder" else None
    inputs = Inputs(tokens=tokens, source=source)
    return module.init(jax.random.key(seed), inputs, method="everything")["params"]
