"""Models with further parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from lm_jax.core.trees import Params, flatten, merge, unflatten
from lm_jax.models.axes import Axes
from lm_jax.models.model import Model

# Draws the added parameters by path, from those of the plain model by path and a random key.
Draw = Callable[[Mapping[str, jax.Array], jax.Array], dict[str, jax.Array]]
# Keys of added parameters are not those of the roles of an objective, which are drawn from the same root.
_KEY = 1 << 20


def with_parameters(model: Model, axes: Mapping[str, Axes], draw: Draw, **changes: Any) -> Model:
    """A model with the parameters of `draw`, whose logical axes are `axes`; `changes` of its other attributes."""

    def added(params: Params, key: jax.Array) -> dict[str, jax.Array]:
        return draw(flatten(params), jax.random.fold_in(key, _KEY))

    def extend(params: Params, key: jax.Array) -> Params:
        return merge(params, unflatten(added(params, key)))

    def init(key: jax.Array) -> Params:
        boxed = model.init(key)
        leaves = added(nn.unbox(boxed), key)
        return merge(boxed, unflatten({path: nn.LogicallyPartitioned(leaves[path], axes[path]) for path in leaves}))

    return dataclasses.replace(model, init=init, extend=extend, **changes)
